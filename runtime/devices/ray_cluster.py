"""Ray on this machine, or on a cluster if an address says so.

Ray asks its peers for a token, and a peer with the token may run any code. On
this machine alone Ray therefore listens on the loopback interface only. On a
cluster it listens on the address of each node: keep that network private.
"""

import os
from typing import Any

from runtime import optional

__all__ = ['ADDRESS', 'connect']

# Of a cluster's head; the flag `--ray_address` sets it too.
ADDRESS = 'RAY_ADDRESS'
# Ray's switch for systems whose firewalls ask about open ports. Off, every
# server binds to 127.0.0.1; there is no other way to ask for that on Linux.
_OPEN_TO_OTHERS = 'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'


def connect() -> tuple[Any, bool]:
  """Starts Ray or connects to the cluster at `RAY_ADDRESS`, unless it runs.

  Returns:
    (Ray, whether this call started or connected it): the caller that started
    it shuts it down.

  Raises:
    ImportError: without the extra `ray`.
    ConnectionError: if there is no cluster at the address.
  """
  address = os.environ.get(ADDRESS)
  if address is None:
    os.environ.setdefault(_OPEN_TO_OTHERS, '0')
  ray = optional.load('ray', extra='ray')
  if ray.is_initialized():
    return ray, False
  if address is None:
    ray.init(address='local', include_dashboard=False, configure_logging=False)
  else:
    ray.init(address=address, configure_logging=False)
  return ray, True
