"""Ray listens to this machine alone unless an address makes a cluster."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
# Ports in state LISTEN (0A) that are new, by address: IPv4 and mapped IPv6.
PROGRAM = """
import pathlib
def listening():
  found = set()
  for name in ('tcp', 'tcp6'):
    for line in pathlib.Path('/proc/net', name).read_text().splitlines()[1:]:
      words = line.split()
      if words[3] == '0A':
        found.add(words[1])
  return found
before = listening()
from runtime.devices import ray_cluster
ray, started = ray_cluster.connect()
assert started and not ray_cluster.connect()[1]
assert ray.get(ray.remote(lambda: 3).remote()) == 3
print(*(listening() - before))
ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_only_the_loopback_interface_is_open():
  pytest.importorskip('ray')
  environment = {k: v for k, v in os.environ.items() if k != 'RAY_ADDRESS'}
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    check=True,
  )
  addresses = [word.split(':')[0] for word in done.stdout.split()]
  assert len(addresses) > 3
  loopback = ('0100007F', '0000000000000000FFFF00000100007F')
  assert set(addresses) <= {*loopback, '00000000000000000000000001000000'}
