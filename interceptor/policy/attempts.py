"""What policy is asked about: one connection, as one of its two sides sees it."""

import math
from dataclasses import dataclass

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.workload import Endpoint, IPAddress, Workload

# When nobody says what time it is, every exception is over.
NO_TIME = math.inf


@dataclass(frozen=True, slots=True)
class OutboundAttempt:
    """A captured connect: who, where to, and whose address that is (None: nobody's that the registry knows).

    `at` is the time in Unix seconds. `is_outside` says that it is certain that nobody of the mesh is at the address: it
    is not one of the mesh's, or a cluster's API shows who is there instead.
    """

    source: Workload
    destination: Endpoint
    destination_workload: Workload | None
    at: float = NO_TIME
    is_outside: bool = False


@dataclass(frozen=True, slots=True)
class InboundAttempt:
    """A connection that arrived: for whom, from where, and the identity proven (None: plaintext).

    `address_holder` is the workload that has the source address by the registry (None: it knows of nobody there);
    `at` is the time in Unix seconds.
    """

    destination_workload: Workload
    destination: Endpoint
    source_address: IPAddress
    source_identity: SpiffeId | None
    address_holder: Workload | None = None
    at: float = NO_TIME
