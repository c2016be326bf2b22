"""Vizier's service with OptFormer, over a socket of this machine."""

import socket
import threading

import pytest

from hpo import spaces, studies
from hpo.optformer import service, suggesting
from hpo.optformer import vizier as adapter

pytest.importorskip('vizier', reason='extra [vizier]')
pytest.importorskip('vizier.service.servers', reason='extra [vizier]')

SPACE = spaces.Space(
  (
    spaces.Float('rate', 1e-3, 1.0, 'LOG'),
    spaces.Int('layers', 1, 4),
    spaces.Discrete('width', (8.0, 16.0, 64.0), 'LOG'),
    spaces.Categorical('kind', ('p', 'q')),
  )
)
PROBLEM = studies.Problem(SPACE, 'MINIMIZE', metric='loss')


def loss(rate, layers, width, kind):
  assert isinstance(layers, int)
  return float('nan') if layers == 4 else rate + (kind == 'q') + width / 64


def free_port():
  with socket.socket() as found:
    found.bind(('localhost', 0))
    return found.getsockname()[1]


@pytest.fixture
def start(made):
  """Starts servers, and stops them at the end."""
  servers = []

  def run(database=None, port=None):
    policy = suggesting.Policy(num_candidates=8)
    port = free_port() if port is None else port
    servers.append(
      service.serve(made, port=port, database=database, policy=policy)
    )
    return servers[-1]

  yield run
  for server in servers:
    server._server.stop(None)


def test_clients_share_a_study_and_a_restarted_server_continues_it(
  start, tmp_path, capsys
):
  path = tmp_path / 'new/studies.db'
  server = start(path)
  assert server.endpoint.startswith('localhost:')
  workers = [
    threading.Thread(
      target=service.work,
      args=(server.endpoint, 'shared', PROBLEM, loss, 3),
      kwargs={'client': name},
    )
    for name in ('first', 'second')
  ]
  for worker in workers:
    worker.start()
  for worker in workers:
    worker.join()
  server._server.stop(None)
  again = start(path)
  study = service.work(again.endpoint, 'shared', PROBLEM, loss, 6)
  assert len(study) >= 6
  for trial in study.trials:
    value = loss(**trial.parameters)
    assert trial.value == (None if value != value else pytest.approx(value))
  points = {tuple(trial.parameters.values()) for trial in study.trials}
  assert len(points) == len(study)
  assert '/6  value ' in capsys.readouterr().out
  other = studies.Problem(SPACE, 'MAXIMIZE', metric='loss')
  with pytest.raises(ValueError, match=r"'shared' of localhost:.* another"):
    service.work(again.endpoint, 'shared', other, loss, 1)


def test_other_algorithms_are_those_of_vizier(start, monkeypatch):
  monkeypatch.setattr(service, 'ALGORITHM', 'RANDOM_SEARCH')
  study = service.work(start().endpoint, 'random', PROBLEM, loss, 2)
  assert len(study) == 2


def test_without_a_server():
  with pytest.raises(ConnectionError, match='service serve` starts one'):
    service.work(f'localhost:{free_port()}', 'none', PROBLEM, loss, 1)
  with pytest.raises(ValueError, match='must be HOST:PORT'):
    service.work('localhost', 'none', PROBLEM, loss, 1)


def test_places_where_no_server_can_listen(start, tmp_path):
  with socket.create_server(('localhost', 0)) as used:
    port = used.getsockname()[1]
    with pytest.raises(OSError, match=f'cannot listen at localhost:{port}'):
      start(port=port)
  with pytest.raises(ValueError, match='port must be in'):
    start(port=2**16)
  path = tmp_path / 'junk.db'
  path.write_text('junk' * 400)
  with pytest.raises(ValueError, match=r'junk\.db is no database'):
    start(path)


def test_statements():
  found = adapter.to_problem(adapter.to_statement(PROBLEM))
  assert found.goal == 'MINIMIZE'
  assert found.metric == 'loss'
  assert found.space == SPACE
