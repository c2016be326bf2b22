"""Parts of several papers put together by configurations alone: each trains."""

import json
import math

import pytest

from runtime import trainer
from runtime.config import sessions
from runtime.context import RunContext

SMALL = {
  # Performer attention inside OptFormer.
  'hpo/optformer_performer_tiny': ('SIZE = "tiny"', 'BATCH_SIZE = 8'),
  # Implicit attention under ES-ENAS.
  'nas/es_enas_iap_tiny': (
    *('PAIRS = 2', 'SIZE = 24', 'dodge.Dodge.max_steps = 4'),
    *(f'training.ESENASTrainer.{name} = 2' for name in ('proposals',)),
  ),
  # ODEtoODE under ES-ENAS.
  'nas/es_enas_odetoode_tiny': ('PAIRS = 2', 'DEPTH = 2', 'WIDTH = 4'),
  # UFOM over an ODE.
  'hpo/ufom_ode_tiny': (
    'INNER_STEPS = 2',
    'SOLVER_STEPS = 2',
    'EVAL_TASKS = 2',
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', SMALL)
def test_it_trains(name, tmp_path, one_device):
  params = [*SMALL[name], 'STEPS = 2', 'LOG_EVERY = 1', 'EVAL_EVERY = 2']
  files = [f'configs/{name}.gin']
  with sessions.session(trainer.train, files, params) as parsed:
    result = parsed.build(
      workdir=str(tmp_path / 'run'),
      seed=0,
      context=RunContext(operative_config=parsed.operative),
    )
  assert result.finished
  rows = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  last = json.loads(rows[-1])
  scores = {k: v for k, v in last.items() if k.startswith('eval/')}
  assert scores
  assert all(math.isfinite(value) for value in scores.values())
