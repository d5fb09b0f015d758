"""Certificates stay fresh: renewed in time, not given up when that fails, and right again after a clock jump."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from interceptor.credentials import Credentials, certificate_state
from interceptor.credentials.renewal import CLOCK_CHECK_SECONDS
from interceptor.errors import AuthorityError
from interceptor.identity.authority import Authority
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.identity.svid import X509Svid
from interceptor.workload import Workload, WorkloadKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cryptography import x509
    from trio.testing import MockClock


BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
WORKLOAD = Workload(
    WorkloadKey("default", "web"),
    SpiffeId.parse("spiffe://cluster.local/ns/default/sa/web"),
    (ip_address("10.0.0.1"),),
    "node",
)


class World:
    """An authority, an observer and a wall clock that goes with trio's, and can be set."""

    def __init__(self, lifetime: timedelta = timedelta(hours=24)) -> None:
        self._authority = Authority.create(TrustDomain("cluster.local"), BEGIN - timedelta(days=30))
        self._offset = timedelta(0)
        self.failing: str | None = None
        self.asked: list[float] = []
        self.published: list[tuple[float, X509Svid]] = []
        self.failures: list[str] = []
        self.renewals = 0
        self.credentials = Credentials(self, lifetime, self.now, self)

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=trio.current_time()) + self._offset

    def set_clock(self, change: timedelta) -> None:
        self._offset += change

    async def sign(
        self, request: x509.CertificateSigningRequest, spiffe_id: SpiffeId, lifetime: timedelta
    ) -> tuple[x509.Certificate, ...]:
        self.asked.append(trio.current_time())
        if self.failing:
            raise AuthorityError(self.failing)
        return self._authority.sign(request, spiffe_id, lifetime, self.now())

    def renewed(self, workload: Workload, svid: X509Svid) -> None:
        assert workload is WORKLOAD
        assert svid.leaf == self.published[-1][1].leaf
        self.renewals += 1

    def renewal_failed(self, workload: Workload, error: str) -> None:
        assert workload is WORKLOAD
        self.failures.append(error)

    def publish(self, svid: X509Svid) -> None:
        self.published.append((trio.current_time(), svid))

    async def keep_fresh(self) -> None:
        await self.credentials.keep_fresh(WORKLOAD, self.publish)

    @property
    def status(self) -> object:
        return self.credentials.status(WORKLOAD.key)

    def svid_in_use(self) -> X509Svid:
        status = self.credentials.status(WORKLOAD.key)
        assert status is not None
        assert status.svid is not None
        return status.svid


@pytest.fixture
def start(nursery: trio.Nursery) -> Callable[..., Awaitable[World]]:
    """Starts keeping one workload's certificate in a new World; the test itself asks for the clock that jumps."""

    async def start(*, failing: str | None = None, **options: timedelta) -> World:
        world = World(**options)
        world.failing = failing
        nursery.start_soon(world.keep_fresh)
        await trio.testing.wait_all_tasks_blocked()
        return world

    return start


async def test_first_certificate_comes_at_once(
    start: Callable[..., Awaitable[World]], autojump_clock: MockClock
) -> None:
    world = await start()
    ((at, svid),) = world.published
    assert at == 0
    assert svid.spiffe_id == WORKLOAD.identity
    assert svid.not_after == BEGIN + timedelta(hours=24)
    assert world.renewals == 1


async def test_renewal_comes_at_half_to_three_fifths_of_each_life_with_a_new_key(
    start: Callable[..., Awaitable[World]],
    autojump_clock: MockClock,
) -> None:
    life = 600.0
    world = await start(lifetime=timedelta(seconds=life))
    await trio.sleep(50 * life)
    times = [at for at, _ in world.published]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) > 80
    # X.509 knows whole seconds only, so a life may be a second shorter.
    assert all(0.5 * (life - 1) <= gap <= 0.6 * life + 0.01 for gap in gaps), gaps
    assert max(gaps) - min(gaps) > 0.05 * life  # not all at the same moment of their life
    keys = {svid.private_key.public_key().public_numbers().x for _, svid in world.published}
    serials = {svid.serial_number for _, svid in world.published}
    assert len(keys) == len(serials) == len(world.published)


async def test_short_lives_are_renewed_in_time_too(
    start: Callable[..., Awaitable[World]], autojump_clock: MockClock
) -> None:
    world = await start(lifetime=timedelta(seconds=10))
    await trio.sleep(600)
    times = [at for at, _ in world.published]
    assert all(4.5 <= later - earlier <= 6.1 for earlier, later in itertools.pairwise(times))


async def test_failure_backs_off_and_the_valid_certificate_stays(
    start: Callable[..., Awaitable[World]],
    autojump_clock: MockClock,
) -> None:
    world = await start()
    first = world.svid_in_use()
    world.failing = "the authority is on holiday"
    await trio.sleep(0.75 * 86400)
    assert world.svid_in_use() is first
    status = world.credentials.status(WORKLOAD.key)
    assert status is not None
    assert status.last_error == "the authority is on holiday"
    assert world.failures
    attempts = world.asked[1:]
    gaps = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert gaps[0] <= 0.6
    assert all(0.4 <= gap <= 180 for gap in gaps)
    assert all(later > 1.2 * earlier for earlier, later in itertools.pairwise(gaps[:7]))
    assert max(gaps) >= 120  # but not asked like mad
    world.failing = None
    await trio.sleep(200)
    assert world.svid_in_use() is not first
    status = world.credentials.status(WORKLOAD.key)
    assert status is not None
    assert status.last_error is None


async def test_failure_of_the_first_certificate_is_shown_and_tried_again(
    start: Callable[..., Awaitable[World]],
    autojump_clock: MockClock,
) -> None:
    world = await start(failing="not yet")
    status = world.credentials.status(WORKLOAD.key)
    assert status is not None
    assert status.svid is None
    assert status.last_error == "not yet"
    world.failing = None
    await trio.sleep(2)
    assert world.svid_in_use()


@pytest.mark.parametrize(
    "change", [timedelta(hours=13), timedelta(hours=25), timedelta(days=100)], ids=["due", "expired", "far"]
)
async def test_clock_that_jumps_forward_brings_the_renewal_forward(
    start: Callable[..., Awaitable[World]], autojump_clock: MockClock, change: timedelta
) -> None:
    """Or the machine was suspended: its timers stood still while the certificate expired."""
    world = await start()
    world.set_clock(change + timedelta(hours=1.5))
    await trio.sleep(CLOCK_CHECK_SECONDS + 1)
    svid = world.svid_in_use()
    assert len(world.published) == 2
    assert svid.not_before <= world.now() < svid.not_after


async def test_clock_that_jumps_back_before_the_certificate_brings_a_new_one(
    start: Callable[..., Awaitable[World]],
    autojump_clock: MockClock,
) -> None:
    """The one in use is not valid yet: every peer would refuse it, for as long as the clock was wrong before."""
    world = await start()
    world.set_clock(timedelta(hours=-5))
    await trio.sleep(CLOCK_CHECK_SECONDS + 1)
    svid = world.svid_in_use()
    assert len(world.published) == 2
    assert svid.not_before <= world.now() < svid.not_after
    await trio.sleep(3600)
    assert len(world.published) == 2


async def test_clock_that_is_put_right_a_little_changes_nothing(
    start: Callable[..., Awaitable[World]],
    autojump_clock: MockClock,
) -> None:
    world = await start()
    for seconds in (5, -30, 20):
        world.set_clock(timedelta(seconds=seconds))
        await trio.sleep(60)
    assert len(world.published) == 1


async def test_clock_before_the_authority_itself_is_survived(
    start: Callable[..., Awaitable[World]], autojump_clock: MockClock
) -> None:
    world = await start()
    world.set_clock(timedelta(days=-60))
    await trio.sleep(600)
    assert "check the clock" in world.failures[-1]
    world.set_clock(timedelta(days=60))
    await trio.sleep(200)
    svid = world.svid_in_use()
    assert svid.not_before <= world.now() < svid.not_after


async def test_status_is_forgotten_with_the_workload(autojump_clock: MockClock) -> None:
    world = World()
    with trio.move_on_after(1):
        await world.keep_fresh()
    assert world.credentials.status(WORKLOAD.key) is None
    assert "PRIVATE" not in repr(world.published)


async def test_what_is_missing_or_past_three_quarters_of_its_life_is_late(
    start: Callable[..., Awaitable[World]], autojump_clock: MockClock
) -> None:
    world = await start(failing="not yet")
    assert world.credentials.late() == 1
    assert list(world.credentials.svids()) == []
    world.failing = None
    await trio.sleep(2)
    assert world.credentials.late() == 0
    world.failing = "the authority is on holiday"
    await trio.sleep(0.76 * 86400)
    assert world.credentials.late() == 1


async def test_failed_renewals_are_tried_again_when_the_authority_is_back(
    start: Callable[..., Awaitable[World]], autojump_clock: MockClock
) -> None:
    world = await start()
    world.failing = "the authority is on holiday"
    await trio.sleep(0.7 * 86400)
    world.failing = None
    world.credentials.try_again(timedelta(seconds=1))
    await trio.sleep(1.1)
    assert len(world.published) == 2
    world.credentials.try_again(timedelta(seconds=1))
    await trio.sleep(10)
    assert len(world.published) == 2


async def test_only_those_that_are_meant_are_brought_forward(
    start: Callable[..., Awaitable[World]], autojump_clock: MockClock
) -> None:
    world = await start()
    first = world.svid_in_use()
    assert world.credentials.bring_forward(lambda svid: svid is not first, timedelta(0)) == 0
    await trio.sleep(1)
    assert world.svid_in_use() is first
    assert world.credentials.bring_forward(lambda svid: svid is first, timedelta(0)) == 1
    await trio.sleep(1)
    assert world.svid_in_use() is not first


def test_certificate_that_begins_later_than_our_clock_is_not_called_valid() -> None:
    authority, key = Authority.create(TrustDomain("cluster.local"), BEGIN), create_private_key()
    request = create_signing_request(WORKLOAD.identity, key)
    chain = authority.sign(request, WORKLOAD.identity, timedelta(hours=1), BEGIN)
    svid = X509Svid(WORKLOAD.identity, chain, key, BEGIN)
    states = [
        certificate_state(svid, BEGIN + timedelta(minutes=minutes))
        for minutes in (-525600, -2, -1, 0, 50, 60)
    ]
    assert states == ["not_yet_valid", "not_yet_valid", "valid", "valid", "late", "expired"]
    assert certificate_state(None, BEGIN) == "missing"
