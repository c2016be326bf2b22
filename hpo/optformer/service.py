r"""OptFormer in Vizier's service: a server, and a client that tunes a function.

  python -m hpo.optformer.service serve --database=runs/studies.db
  python -m hpo.optformer.service tune --study=forest \
    --objective=hpo.optformer.examples.forest:accuracy \
    --space=hpo.optformer.examples.forest:SPACE --goal=MAXIMIZE --output=runs/forest

The server keeps all studies, and suggests points. Clients evaluate them; several may
work on one study at once, on other machines too. A study continues when its clients
start again, and when the server does, if it has a database. Clients of Vizier's own
library choose the algorithm 'OPTFORMER'; Vizier's algorithms are there under their
names.

The server listens to this machine only, unless --host says otherwise. Its protocol has
no passwords: open it to a trusted network alone.
"""

import argparse
import errno
import pathlib
import socket
import threading
from collections.abc import Sequence
from typing import Any

from hpo import studies
from hpo.optformer import databases, suggesting, trained, tune, vizier
from runtime import commands, optional
from runtime.record import workdirs

__all__ = ['ALGORITHM', 'PolicyFactory', 'main', 'serve', 'work']

ALGORITHM = 'OPTFORMER'
_PORT = 28_080
_OWNER = 'attune'


class PolicyFactory:
  """Vizier's own policies, and OptFormer's under the name 'OPTFORMER'.

  Args:
    model: the model.
    policy: how points are chosen; None: `suggesting.usual`.
    seed: of all draws.
  """

  def __init__(
    self,
    model: trained.Trained,
    *,
    policy: suggesting.Policy | None = None,
    seed: int = 0,
  ) -> None:
    self._model, self._policy, self._seed = model, policy, seed
    factories = optional.load(
      'vizier._src.service.policy_factory', extra='vizier'
    )
    self._others = factories.DefaultPolicyFactory()

  def __call__(
    self, problem: Any, algorithm: str, supporter: Any, study_name: str
  ) -> Any:
    """See `vizier.pythia.PolicyFactory`."""
    if algorithm != ALGORITHM:
      return self._others(problem, algorithm, supporter, study_name)
    policies = optional.load(
      'vizier._src.algorithms.policies.designer_policy', extra='vizier'
    )
    return policies.DesignerPolicy(supporter, self._designer)

  def _designer(self, problem: Any, **unused: Any) -> vizier.OptFormerDesigner:
    """Vizier also gives a seed, which would change from call to call."""
    del unused
    return vizier.OptFormerDesigner(
      problem, self._model, policy=self._policy, seed=self._seed
    )


def serve(
  model: trained.Trained,
  *,
  host: str = 'localhost',
  port: int = _PORT,
  database: pathlib.Path | None = None,
  policy: suggesting.Policy | None = None,
) -> Any:
  """Starts a server in threads of this process.

  Args:
    model: the model.
    host: to listen at.
    port: of the host.
    database: file that keeps the studies; None: they are lost at the end.
    policy: how points are chosen; None: `suggesting.usual`.

  Returns:
    A `vizier.service.servers.DefaultVizierServer`.

  Raises:
    OSError: the port is in use, or the host is not one of this machine.
    ValueError: there is no such port, or the file is no database.
  """
  _check_free(host, port)
  servers = optional.load('vizier.service.servers', extra='vizier')
  url = 'sqlite:///:memory:'
  if database is not None:
    database.parent.mkdir(parents=True, exist_ok=True)
    url = f'sqlite:///{database.absolute()}'
  with databases.told(url):
    return servers.DefaultVizierServer(
      host,
      port=port,
      database_url=url,
      policy_factory=PolicyFactory(model, policy=policy),
    )


def _check_free(host: str, port: int) -> None:
  """Vizier would go on without listening, or share the port of another server."""
  if not 0 < port < 2**16:
    raise ValueError(f'a port must be in 1..{2**16 - 1}, got {port}')
  addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
  faults = []
  for family, *_, address in addresses:
    try:
      socket.create_server(address, family=family).close()
    except OSError as error:
      faults.append(error)
  # A name may also have an address of a kind that this machine lacks.
  kept = (errno.EADDRINUSE, errno.EACCES)
  if len(faults) == len(addresses) or any(x.errno in kept for x in faults):
    raise OSError(f'cannot listen at {host}:{port}: {faults[0]}')


def work(
  endpoint: str,
  study_name: str,
  problem: studies.Problem,
  objective: tune.Objective,
  trials: int,
  *,
  client: str = 'client',
) -> studies.Study:
  """Evaluates the points that a server suggests, until there are enough trials.

  Args:
    endpoint: host and port of the server, such as 'localhost:28080'.
    study_name: of the study, which is made if it does not exist.
    problem: the objective and its space.
    objective: of the parameters by name.
    trials: completed ones in the end, by all clients.
    client: name of this client; one that starts again under its name is given
      the point that it did not finish.

  Returns:
    All completed trials.

  Raises:
    ConnectionError: no server answers.
    ValueError: the study exists, and is that of another problem.
  """
  study = _opened(endpoint, study_name, problem)
  done = _completed(study, problem)
  while len(done) < trials:
    [trial] = study.suggest(count=1, client_id=client)
    # Whole numbers come as floats, which objectives need not take.
    point = problem.space.point(problem.space.codes(trial.parameters))
    value = tune.value_at(objective, point)
    _complete(trial, problem, value)
    done = _completed(study, problem)
    told = 'infeasible' if value is None else f'{value:.6g}'
    print(f'trial {len(done)}/{trials}  value {told}', flush=True)
  return done


def _check_reachable(endpoint: str) -> None:
  """Vizier's own message would not tell what to do."""
  host, _, port = endpoint.rpartition(':')
  if not host or not port.isdecimal():
    raise ValueError(f'an endpoint must be HOST:PORT, got {endpoint!r}')
  try:
    socket.create_connection((host, int(port)), timeout=10).close()
  except OSError as error:
    raise ConnectionError(
      f'no server at {endpoint} ({error}); `python -m hpo.optformer.service '
      'serve` starts one'
    ) from error


def _opened(endpoint: str, name: str, problem: studies.Problem) -> Any:
  _check_reachable(endpoint)
  clients = optional.load('vizier.service.clients', extra='vizier')
  vz = optional.load('vizier.service.pyvizier', extra='vizier')
  clients.environment_variables.server_endpoint = endpoint
  config = vz.StudyConfig.from_problem(vizier.to_statement(problem))
  config.algorithm = ALGORITHM
  study = clients.Study.from_study_config(config, owner=_OWNER, study_id=name)
  found = vizier.to_problem(study.materialize_problem_statement())
  if found != vizier.to_problem(vizier.to_statement(problem)):
    raise ValueError(
      f'the study {name!r} of {endpoint} has another problem: {found}'
    )
  return study


def _complete(
  trial: Any, problem: studies.Problem, value: float | None
) -> None:
  vz = optional.load('vizier.service.pyvizier', extra='vizier')
  if value is None:
    trial.complete(vz.Measurement(), infeasible_reason='not finite')
    return
  metrics = {vizier.metric_name(problem): value}
  trial.complete(vz.Measurement(metrics=metrics))


def _completed(study: Any, problem: studies.Problem) -> studies.Study:
  found = [trial.materialize() for trial in study.trials()]
  finished = [trial for trial in found if trial.is_completed]
  trials = vizier.to_trials(finished, vizier.metric_name(problem))
  return studies.Study.of(problem, trials)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = commands.plain(__doc__)
  parts = parser.add_subparsers(dest='command', required=True)
  server = parts.add_parser('serve', help='starts a server')
  server.add_argument('--host', default='localhost')
  server.add_argument('--port', type=int, default=_PORT)
  server.add_argument('--database', type=commands.path, help='default: none')
  server.add_argument('--model', type=commands.path, help=tune.MODEL_HELP)
  client = parts.add_parser('tune', help='evaluates what a server suggests')
  tune.add_problem(client)
  client.add_argument('--endpoint', default=f'localhost:{_PORT}')
  client.add_argument('--study', required=True, help='its name on the server')
  client.add_argument('--client', default='client', help='name of this client')
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs a command.

  Args:
    argv: arguments of the command; None: those of the process.
  """
  options = _arguments(argv)
  if options.command == 'tune':
    objective, problem = tune.problem_of(options)
    with workdirs.claimed(options.output) as claim:
      study = work(
        options.endpoint,
        options.study,
        problem,
        objective,
        options.trials,
        client=options.client,
      )
      claim.keep()
      workdirs.write_status(claim.folder, state='finished', step=len(study))
      tune.report(study, claim.folder)
    return
  server = serve(
    trained.load(options.model) if options.model else trained.shipped(),
    host=options.host,
    port=options.port,
    database=options.database,
  )
  print(f'serving at {server.endpoint}; Ctrl-C ends it', flush=True)
  try:
    threading.Event().wait()
  except KeyboardInterrupt:
    print('ended')


if __name__ == '__main__':
  commands.run(main)
