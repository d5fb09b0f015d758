"""Questions and answers over as many keep-alive connections as are asked at once, made anew when they fail."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import trio

from interceptor.authority.documents import ErrorBody
from interceptor.authority.refusal import PASSING
from interceptor.authority_client.recognise import require_authority
from interceptor.errors import (
    AuthorityError,
    AuthorityRefusal,
    AuthorityUnavailable,
    InvalidInput,
    PeerRejected,
)
from interceptor.transport.infrastructure_tls import node_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from interceptor.authority_client.connection import Answer, Connection
    from interceptor.authority_client.resolve import Way
    from interceptor.identity.spiffe_id import TrustDomain
    from interceptor.identity.trust_bundle import TrustBundles
    from interceptor.transport.tls import Proof, TlsContext

ANSWER_SECONDS = 15.0
MAX_ANSWER_BYTES = 64 * 1024
MAX_IDLE_CONNECTIONS = 8
IDLE_SECONDS = 60.0  # the service closes after 120
_OK, _NOT_MODIFIED = 200, 304


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """With what connections are made: what we show, and whom we believe.  A connection belongs to one of these."""

    context: TlsContext
    bundles: TrustBundles

    @classmethod
    def of(cls, proof: Proof | None, bundles: TrustBundles, trust_domain: TrustDomain) -> Side:
        """Show `proof`, and believe an authority of `trust_domain`."""
        return cls(node_context(proof, bundles.bundles[trust_domain].roots), bundles)


@dataclass(frozen=True, slots=True)
class Question:
    """One request.  `make_body` is called for each attempt: the authority takes nothing twice."""

    method: str
    target: str
    make_body: Callable[[], bytes] = bytes
    limit: int = MAX_ANSWER_BYTES  # of the answer, in bytes
    seconds: float = ANSWER_SECONDS


class _Idle(NamedTuple):
    connection: Connection
    side: Side
    since: float


class Channel:
    """The way to one authority; many tasks may ask at once."""

    def __init__(self, way: Way, trust_domain: TrustDomain, now: Callable[[], datetime]) -> None:
        self._way = way
        self._trust_domain = trust_domain
        self._now = now
        self._side: Side | None = None
        self._idle: list[_Idle] = []

    def use(self, side: Side) -> None:
        """Ask with this from now on."""
        self._side = side

    def close(self) -> None:
        """Close the connections that nobody uses."""
        for idle in self._idle:
            idle.connection.close()
        self._idle.clear()

    async def ask(self, question: Question) -> bytes | None:
        """The answer; None when there is nothing new.  Once more if a connection had died while it was idle.

        AuthorityRefusal, AuthorityUnavailable or AuthorityError.
        """
        side = self._side
        if side is None:
            raise AuthorityError("this node has not joined yet: give it a token with --join-token-file")
        with _deadline(question.seconds):
            connection = self._take_idle(side)
            if connection is not None:
                try:
                    return await self._ask_on(connection, side, question)
                except AuthorityUnavailable:
                    if connection.has_answered:
                        raise
            return await self._ask_on(await self._connect(side), side, question)

    async def ask_once(self, side: Side, question: Question) -> bytes | None:
        """The same with another side, and never twice."""
        with _deadline(question.seconds):
            return await self._ask_on(await self._connect(side), side, question)

    async def _ask_on(self, connection: Connection, side: Side, question: Question) -> bytes | None:
        try:
            answer = await connection.ask(
                question.method, question.target, question.make_body(), question.limit
            )
        except BaseException:
            connection.close()
            raise
        if connection.is_usable and side is self._side and len(self._idle) < MAX_IDLE_CONNECTIONS:
            self._idle.append(_Idle(connection, side, trio.current_time()))
        else:
            connection.close()
        return _content(answer)

    def _take_idle(self, side: Side) -> Connection | None:
        while self._idle:
            idle = self._idle.pop()
            if idle.side is side and trio.current_time() - idle.since < IDLE_SECONDS:
                return idle.connection
            idle.connection.close()
        return None

    async def _connect(self, side: Side) -> Connection:
        try:
            connection = await self._way.connect(side.context)
        except PeerRejected as error:
            raise AuthorityUnavailable(f"no TLS with the authority at {self._way.address}: {error}") from None
        try:
            chain = connection.stream.verified_chain()
            require_authority(chain, side.bundles, self._trust_domain, self._now())
        except BaseException:
            connection.close()
            raise
        return connection


def _content(answer: Answer) -> bytes | None:
    if answer.status == _OK:
        return answer.body
    if answer.status == _NOT_MODIFIED:
        return None
    try:
        error = ErrorBody.from_json(answer.body)
    except InvalidInput:
        raise AuthorityUnavailable(f"the authority answered with HTTP status {answer.status}") from None
    if error.known_code in PASSING:
        raise AuthorityUnavailable(f"{error.code}: {error.message}")
    raise AuthorityRefusal(error.code, error.message)


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise AuthorityUnavailable(f"the authority did not answer within {seconds:g} s") from None
