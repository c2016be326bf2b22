"""A run as one file."""

import pytest

from hpo.optformer import pack, trained
from runtime import trainer
from runtime.config import sessions
from runtime.context import RunContext


@pytest.mark.slow
def test_a_run_is_packed_with_its_own_algorithm(tmp_path, capsys):
  files = ['configs/hpo/optformer_tiny.gin']
  params = ["SIZE = 'tiny'", 'STEPS = 2', 'WARMUP_STEPS = 1', 'EVAL_EVERY = 2']
  with sessions.session(trainer.train, files, params) as parsed:
    parsed.build(
      workdir=str(tmp_path / 'run'),
      seed=0,
      context=RunContext(operative_config=parsed.operative),
    )
  command = [str(tmp_path / 'run'), f'--output={tmp_path}/model.msgpack']
  with pytest.raises(ValueError, match=r"'designer_hill_climb'.*got 'hill'"):
    pack.main([*command, '--algorithm=hill'])
  pack.main([*command, '--algorithm=designer_hill_climb'])
  assert 'fitted to' in capsys.readouterr().out
  found = trained.load(tmp_path / 'model.msgpack')
  assert found.algorithm == 'designer_hill_climb'
  assert 'designer_random_search' in found.algorithms
