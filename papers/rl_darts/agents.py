"""Searches by agents with a replay: Rainbow from MinAtar, SAC from pictures."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nas.rl_darts import genotype, networks, probabilities, search, spaces
from papers import claims, figures, rows, study
from papers.rl_darts import games, runs
from papers.rl_darts.search import DERIVED, SUPERNET
from rl import rainbow, sac
from rl import training as rl_training
from rl.envs import frames, lanes, pendulum, pixels, protocol

_LAST = 5  # Records whose mean is the level of a run.


@dataclasses.dataclass(frozen=True)
class Setting:
  """A search by an agent."""

  agent: Any  # With a supernet.
  game: Callable[[int], protocol.VectorEnvironment]  # Makes lanes to learn in.
  iterations: int  # Of the agent.
  records: int = 20  # Of a run, at equal distances.
  # Whether the derived cell is trained from scratch as well.
  retrain: bool = False
  lanes: int = 4  # n.


def pendulum_pictures(num_lanes: int) -> frames.Stacked:
  """A pendulum to swing up, seen in two small pictures."""
  view = pixels.PixelView(pendulum.Pendulum(), pixels.pendulum_scene, size=16)
  return frames.Stacked(lanes.Lanes(view, num_lanes), 2)


def _cells(
  searched: Any, space: spaces.CellSpace, learner: Any, state: Any
) -> Any:
  """New learners with the cells of searches, several agents at once."""

  def masks(logits: jax.Array) -> jax.Array:
    p = probabilities.probabilities({'edges': logits})['edges']
    return genotype.mixing(genotype.edge_labels(p, space), len(space.ops))

  params = jax.tree_util.tree_map_with_path(
    lambda path, new, old: (
      jax.vmap(masks)(old) if probabilities.is_alpha(path) else new
    ),
    state.params,
    searched,
  )
  target = jax.tree.map(jnp.copy, learner.judge(params))
  return state.replace(params=params, target=target)


def run(setting: Setting, *, seeds: Sequence[int]) -> list[study.Record]:
  """Returns of searches, of their cells from scratch, and of random actions."""
  agents = runs.agents_for(seeds)
  learn = functools.partial(runs.learn, setting, agents=agents)
  algorithm = search.Search(setting.agent, iterations=setting.iterations)
  found = learn(algorithm, setting.game(setting.lanes), seed=0)
  random = rl_training.random_returns(setting.game(32), 0, episodes=2).mean()
  steps = setting.iterations * setting.lanes * setting.agent.unroll_length
  common = {
    'random': random,
    'steps': steps,
    'entropy': found.driven.column('train/alpha_entropy'),
  }
  if 'train/overflow' in found.driven.rows[-1]:
    common['overflow'] = found.driven.column('train/overflow').max()
  records = [common | found.record(seed, last=_LAST) for seed in seeds]
  if not setting.retrain:
    return records
  encoder = setting.agent.encoder.clone(architecture=networks.Masked())
  params = found.trainer.learner.params(found.driven.state.learner)
  again = learn(
    dataclasses.replace(setting.agent, encoder=encoder),
    setting.game(setting.lanes),
    seed=1,
    change=functools.partial(_cells, params, encoder.space),
  )
  cells = [again.record(seed, last=_LAST) for seed in seeds]
  return [
    record | {f'cell_{name}': value for name, value in cell.items()}
    for record, cell in zip(records, cells, strict=True)
  ]


def _figure(results: study.Results) -> figures.Panel:
  (arm,) = results.arms
  names = {'returns': SUPERNET, 'cell_returns': DERIVED}
  curves = {
    label: results.curves(arm, name)
    for name, label in names.items()
    if name in results.records[arm, None][0]
  }
  return figures.lines(
    curves,
    runs.steps_of(results, arm),
    spread='mean',
    levels={'random actions': results(arm, 'random')[0]},
    xlabel='steps',
    ylabel='return while training',
  )


_BREAKOUT, _PENDULUM = 'Rainbow, Breakout', 'SAC, pendulum in pictures'
_RAINBOW = Setting(
  rainbow.Rainbow(
    encoder=runs.MICRO,
    v_min=0.0,
    v_max=20.0,
    capacity=20_000,
    samples_per_insert=4.0,
    learning_rate=1e-3,
  ),
  functools.partial(games.minatar, name='Breakout'),
  iterations=2_000,
)
_SAC = Setting(
  sac.SAC(
    encoder=networks.PISACEncoder(
      channels=8, num_cells=1, features=32, products=True
    ),
    hidden=(64, 64),
    capacity=20_000,
    learning_rate=1e-3,
    batch_size=32,
    updates_per_step=0.5,
  ),
  pendulum_pictures,
  iterations=4_000,
  retrain=True,
)
ROWS = (
  rows.Row(
    id='rainbow',
    claim='Search works in Rainbow as well (return on Breakout of MinAtar).',
    study={'tiny': study.Study(run, {_BREAKOUT: _RAINBOW}, together=True)},
    ours=lambda results: {
      f'{SUPERNET}: level': results(_BREAKOUT, 'level'),
      'random actions': results(_BREAKOUT, 'random').mean(),
      'mass outside the support, at most': results(_BREAKOUT, 'overflow').max(),
    },
    trend='level above three times that of random actions; at most 0.1 % of the '
    'mass outside the support',
    claims=(
      claims.above(
        f'{SUPERNET}: level',
        than=claims.computed(
          'three times random actions', lambda x: 3 * x, 'random actions'
        ),
      ),
      claims.Check(
        'at most 0.001 of the mass outside the support',
        lambda table: max(table['mass outside the support, at most']) <= 1e-3,
      ),
    ),
    figure=_figure,
    explain='Stage of 8 channels, 32,000 steps, 4 samples learnt from per step, '
    'support [0, 20]. The paper trains 25 M steps on Procgen.',
    headline=f'{SUPERNET}: level',
  ),
  rows.Row(
    id='sac',
    claim='Search works for continuous control from pictures, and its cells learn '
    'from scratch (return on a pendulum, SAC).',
    study={'tiny': study.Study(run, {_PENDULUM: _SAC}, together=True)},
    ours=lambda results: {
      SUPERNET: results(_PENDULUM, 'level'),
      DERIVED: results(_PENDULUM, 'cell_level'),
      'random actions': results(_PENDULUM, 'random').mean(),
    },
    trend='both lose less than half of what random actions lose',
    claims=[
      claims.above(
        name,
        than=claims.computed(
          'half of random actions', lambda x: 0.5 * x, 'random actions'
        ),
      )
      for name in (SUPERNET, DERIVED)
    ],
    figure=_figure,
    explain='Two pictures of 16 x 16, one cell of 8 channels for the policy and one '
    'for the critics, each with logits of its own, 16,000 steps, an update of 32 '
    'samples for every second step. Returns are sums of costs, so negative.',
    headline=SUPERNET,
  ),
)
