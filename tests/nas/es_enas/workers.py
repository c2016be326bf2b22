"""An evaluator for Ray's workers, which import it."""

from nas.es_enas import partitions, policies
from rl.es import vector_evaluator
from tests.rl.es import ray_cases


def runner(num_lanes=4):
  env = ray_cases.Walk(num_lanes)
  policy = policies.feed_forward(
    env.observation_space,
    env.action_space,
    sharing=partitions.Partition(2),
    hidden=(2,),
  )
  return vector_evaluator.VectorEvaluator(env, policy)


def fragile(mark):
  """A worker dies at the task of row 2 while there is a mark; removes the mark."""
  plain = runner()
  return ray_cases.Fragile(plain.env, plain.policy, mark=mark, at=2)
