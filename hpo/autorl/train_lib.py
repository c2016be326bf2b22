"""The root of the configurations; see `runtime.trainer.train`."""

from runtime import trainer

__all__ = ['train']

train = trainer.train
