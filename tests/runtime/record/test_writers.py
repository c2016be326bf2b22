import io
import json

import pytest
from tensorboardX.proto import event_pb2

from runtime.record import writers


def test_rows_are_cut_at_the_offset_of_the_checkpoint(tmp_path):
  writer = writers.MetricWriter(tmp_path, step=0, offset=0)
  writer.write(1, {'train/loss': 0.5})
  offset = writer.offset()
  writer.write(2, {'train/loss': 0.25})
  writer.close()
  writer = writers.MetricWriter(tmp_path, step=1, offset=offset)
  writer.write(2, {'train/loss': 0.75})
  writer.close()
  expected = [{'step': 1, 'train/loss': 0.5}, {'step': 2, 'train/loss': 0.75}]
  assert writers.read_metrics(tmp_path) == expected


def test_lost_rows_are_told_and_not_filled_up(tmp_path, caplog):
  (tmp_path / writers.METRICS_FILE).write_text('{"step": 1}\n')
  with caplog.at_level('WARNING', logger='absl'):
    writer = writers.MetricWriter(tmp_path, step=9, offset=500)
  writer.write(10, {'train/loss': 0.5})
  writer.close()
  assert 'rows were lost' in caplog.text
  assert [row['step'] for row in writers.read_metrics(tmp_path)] == [1, 10]


def test_values_that_are_not_finite_stay_json(tmp_path):
  writer = writers.MetricWriter(tmp_path, step=0, offset=0)
  writer.write(1, {'eval/loss': float('nan'), 'eval/x': float('inf')})
  writer.close()
  text = (tmp_path / writers.METRICS_FILE).read_text()
  assert json.loads(text) == {'step': 1, 'eval/loss': None, 'eval/x': None}


@pytest.mark.parametrize('line', [b'{"step"', b'\xff'])
def test_line_that_is_not_json_is_named(tmp_path, line):
  path = tmp_path / writers.METRICS_FILE
  before = b'{"step": 1}\n' + line + b'\n'
  path.write_bytes(before)
  with pytest.raises(ValueError, match=r'metrics\.jsonl:2'):
    writers.read_metrics(tmp_path)
  with pytest.raises(ValueError, match=r'metrics\.jsonl:2'):
    writers.MetricWriter(tmp_path, step=1, offset=len(before))
  assert path.read_bytes() == before


def test_tensorboard_holds_the_scalars(tmp_path):
  writer = writers.MetricWriter(tmp_path, step=0, offset=0)
  writer.write(3, {'train/loss': 0.5})
  writer.close()
  (file,) = tmp_path.glob('events.out.tfevents.*')
  assert ('train/loss', 3, 0.5) in scalars(file.read_bytes())


def scalars(data):
  """Reads (tag, step, value) from the framing of TFRecord files."""
  found = []
  while data:
    size = int.from_bytes(data[:8], 'little')
    event = event_pb2.Event.FromString(data[12 : 12 + size])
    found += [
      (value.tag, event.step, value.simple_value)
      for value in event.summary.value
    ]
    data = data[16 + size :]
  return found


@pytest.mark.parametrize(
  ('seconds', 'text'), [(42.4, '42s'), (185, '3m05s'), (7620, '2h07m')]
)
def test_durations_read_well(seconds, text):
  assert writers.format_duration(seconds) == text


def test_progress_shows_step_rate_time_left_and_metric():
  stream = io.StringIO()
  progress = writers.Progress(100, stream)
  progress.show(10, 0.5, {'loss': 2.5})
  progress.show(20, 0.5, {'loss': 2.0})  # Too soon for a log file.
  progress.show(100, 0.5, {'loss': 1.0})
  assert stream.getvalue().splitlines() == [
    'step 10/100  2 steps/s  45s left  loss 2.5',
    'step 100/100  2 steps/s  0s left  loss 1',
  ]


def test_live_line_is_rewritten_in_place():
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  stream = Terminal()
  progress = writers.Progress(100, stream)
  progress.show(1, 0.5, {'loss': 2.5})
  progress.show(2, 0.5, {})
  progress.note('saved')
  first, second, note = stream.getvalue().replace('\n', '\r').split('\r')[:3]
  assert first.startswith('step 1/100')
  assert second.startswith('step 2/100')
  assert len(second) == len(first)  # Blanks cover the longer line.
  assert note.rstrip() == 'saved'


def events(folder):
  files = sorted(folder.glob('events.out.tfevents.*'))
  return [event for path in files for event in scalars(path.read_bytes())]


def test_a_cut_row_is_dropped_and_tensorboard_follows(tmp_path, caplog):
  with_two = writers.MetricWriter(tmp_path, step=0, offset=0)
  for step in (1, 2, 3):
    with_two.write(step, {'train/loss': 1 / step})
  # As SIGKILL leaves it: nothing is closed, the last row is cut.
  path = tmp_path / 'metrics.jsonl'
  whole = path.stat().st_size
  assert [step for _, step, _ in events(tmp_path)] == [1, 2, 3]
  with path.open('ab') as file:
    file.truncate(whole - 7)
  assert [row['step'] for row in writers.read_metrics(tmp_path)] == [1, 2]
  assert 'ends in the middle of a row' in caplog.text
  again = writers.MetricWriter(tmp_path, step=3, offset=whole)
  assert 'rows were lost' in caplog.text
  again.write(3, {'train/loss': 0.25})
  again.close()
  assert [row['step'] for row in writers.read_metrics(tmp_path)] == [1, 2, 3]
  assert events(tmp_path) == [
    ('train/loss', 1, 1.0),
    ('train/loss', 2, 0.5),
    ('train/loss', 3, 0.25),
  ]
