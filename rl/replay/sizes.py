"""How settings of a replay that people choose become numbers of rows."""

__all__ = ['check_room', 'rows', 'updates']


def rows(capacity: int, *, num_lanes: int, unroll_length: int) -> int:
  """Rows per lane of a replay.

  Args:
    capacity: steps of all lanes together.
    num_lanes: of the environment.
    unroll_length: rows per insertion.

  Returns:
    As many whole insertions as fit.

  Raises:
    ValueError: if none fits.
  """
  count = capacity // (num_lanes * unroll_length)
  if count < 1:
    raise ValueError(
      'capacity must be at least num_lanes * unroll_length, got '
      f'{capacity=} {num_lanes=} {unroll_length=}'
    )
  return count * unroll_length


def check_room(min_replay: int, room: int) -> None:
  """Refuses to wait for more steps than the replay can hold.

  Args:
    min_replay: steps before learning starts.
    room: steps that can be stored.

  Raises:
    ValueError: if min_replay is more than half of the room: newest steps, and
      truncated ones, cannot be sampled.
  """
  if 2 * min_replay > room:
    raise ValueError(
      'min_replay must be at most half of the replay, got '
      f'{min_replay=} and room for {room}'
    )


def updates(samples: float, batch_size: int) -> int:
  """Updates that draw so many samples.

  Args:
    samples: per iteration.
    batch_size: of an update.

  Returns:
    Their quotient.

  Raises:
    ValueError: if that is not a positive whole number.
  """
  count = samples / batch_size
  if count < 1 or count != round(count):
    raise ValueError(
      'the samples of an iteration, num_lanes * unroll_length times those per '
      'step, must be a positive multiple of batch_size, got '
      f'{samples=} {batch_size=}'
    )
  return round(count)
