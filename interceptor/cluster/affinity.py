"""Which of the candidates a connection gets: any with the same chance, or the one that its client had before."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from interceptor.cluster.resolution import Candidate, Resolution
from interceptor.workload import Endpoint, IPAddress

MAX_REMEMBERED: Final = (
    65_536  # clients times services; beyond, the one that was used longest ago is forgotten
)

_Client = tuple[str, int, IPAddress]  # of the service with that UID, at that port, from that address


class Affinity:
    """Who got what, and when last, for services with `sessionAffinity: ClientIP`; it belongs to one owner."""

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        self._limit = limit
        self._used: OrderedDict[_Client, tuple[Endpoint, float]] = OrderedDict()

    def choose(self, resolution: Resolution, client: IPAddress, *, draw: float, now: float) -> Candidate:
        """One of the candidates, of which there must be some.

        `draw` is chance, uniform in [0, 1); `now` is a time in seconds. A pod that can no longer be used is replaced
        at once, whatever the affinity.
        """
        service, port = resolution.service, resolution.port
        drawn = resolution.candidates[int(draw * len(resolution.candidates))]
        if service is None or port is None or service.affinity_seconds is None:
            return drawn
        key = (service.head.uid, port.port, client)
        chosen = self._remembered(key, resolution.candidates, now - service.affinity_seconds) or drawn
        self._used[key] = (chosen.endpoint, now)
        self._used.move_to_end(key)
        if len(self._used) > self._limit:
            self._used.popitem(last=False)
        return chosen

    def _remembered(
        self, key: _Client, candidates: Sequence[Candidate], not_before: float
    ) -> Candidate | None:
        endpoint, used_at = self._used.get(key, (None, 0.0))
        if used_at < not_before:
            return None
        return next((each for each in candidates if each.endpoint == endpoint), None)
