"""Parts of several papers put together by configurations alone: each trains."""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

from hpo import studies
from runtime import trainer
from runtime.config import sessions
from runtime.context import RunContext

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = {
  # Performer attention inside OptFormer.
  'hpo/optformer_performer_tiny': (
    *("SIZE = 'tiny'", 'BATCH_SIZE = 8', 'WARMUP_STEPS = 1'),
  ),
  # Implicit attention under ES-ENAS.
  'nas/es_enas_iap_tiny': (
    *('PAIRS = 2', 'SIZE = 24', 'dodge.Dodge.max_steps = 4'),
    *(f'training.ESENASTrainer.{name} = 2' for name in ('proposals',)),
  ),
  # ODEtoODE under ES-ENAS.
  'nas/es_enas_odetoode_tiny': (
    *('PAIRS = 2', 'DEPTH = 2', 'WIDTH = 4', 'EDGES = 8'),
  ),
  # RL-DARTS cells tuned by PB2.
  'hpo/autorl_rl_darts_tiny': (
    'POPULATION = 2',
    'ROUNDS = 2',
    'ITERATIONS = 1',
  ),
  # OptFormer tunes PPO.
  'hpo/autorl_optformer_tiny': ('ITERATIONS = 1',),
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


SWEEPS = {
  # OptFormer tunes the protein model.
  'performer/protein': (
    *('--gin_file=configs/performer/protein_mlm_tiny.gin', '--metric'),
    *('eval/valid/loss', '--goal=MINIMIZE', '--gin_param=WARMUP_STEPS = 1'),
    *('--gin_param=D_MODEL = 16', '--gin_param=D_FF = 16'),
    '--gin_param=training.LanguageModelTrainer.cost_lengths = ()',
  ),
  # OptFormer tunes PPO, in processes.
  'rl/ppo': (
    *('--gin_file=configs/rl/ppo_cartpole_tiny.gin', '--metric'),
    *('eval/greedy/episode_return', '--goal=MAXIMIZE'),
    *('--gin_param=NUM_AGENTS = 2', '--gin_param=UPDATES = 100'),
    '--gin_param=training.AgentTrainer.iterations_per_step = 2',
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', SWEEPS)
def test_optformer_tunes_runs(name, tmp_path):
  words = [f'--space=configs/{name}_space.json', '--tuner=optformer']
  words += ['--trials=2', '--workers=2', f'--workdir={tmp_path / "sweep"}']
  words += ['--gin_param=STEPS = 2', '--gin_param=EVAL_EVERY = 2']
  env = os.environ | {'PYTHONPATH': str(ROOT)}
  env.pop('XLA_FLAGS')
  done = subprocess.run(
    [sys.executable, '-m', 'runtime.sweep', *words, *SWEEPS[name]],
    cwd=ROOT,
    env=env,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  [study] = studies.read(tmp_path / 'sweep' / 'report' / 'study.jsonl')
  assert len(study) == 2
  assert all(math.isfinite(value) for value in study.values)
  assert study.problem.algorithm == 'optformer'
