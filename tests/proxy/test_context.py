"""What handlers are given, apart from what their own tests show."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from interceptor.errors import PeerRejected
from interceptor.policy.attempts import OutboundAttempt
from interceptor.policy.verdict import Denial, Permit, Reason, Transport
from interceptor.proxy.context import permit_to_itself
from interceptor.proxy.refusal import Refusal, refusal_of, require_permit
from interceptor.workload import Direction, Endpoint

if TYPE_CHECKING:
    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.workload import Workload
    from tests.proxy.mesh import Mesh


def test_refusal_is_readable_with_and_without_detail() -> None:
    assert str(Refusal(Reason.WITHDRAWN)) == "withdrawn"
    assert str(Refusal(Reason.WITHDRAWN, "by hand")) == "withdrawn: by hand"


@pytest.mark.parametrize(
    "reason",
    [reason for reason in Reason if reason.value.startswith("peer_")],
    ids=lambda reason: reason.value,
)
def test_rejected_peer_becomes_the_refusal_of_that_reason(reason: Reason) -> None:
    refusal = refusal_of(PeerRejected(reason.value, "why"))
    assert (refusal.reason, refusal.detail) == (reason, "why")


async def test_permit_is_handed_on_and_a_denial_is_not(mesh: Mesh) -> None:
    record = mesh.source.context.begin(Direction.OUTBOUND)
    permit = Permit(Transport.MUTUAL_TLS)
    assert require_permit(permit, record) is permit
    assert record.verdict == "permit"
    with pytest.raises(Refusal, match="reserved_port: why"):
        require_permit(Denial(Reason.RESERVED_PORT, "why"), record)
    assert (record.verdict, record.reason, record.detail) == ("denial", Reason.RESERVED_PORT, "why")


def attempt(mesh: Mesh, target: Workload | None) -> OutboundAttempt:
    return OutboundAttempt(mesh.source.context.workload, Endpoint(ip_address("10.0.0.1"), 80), target, 0.0)


async def test_workload_is_permitted_to_connect_to_itself_alone(mesh: Mesh) -> None:
    permit = permit_to_itself(attempt(mesh, mesh.source.context.workload))
    assert permit is not None
    assert permit.transport is Transport.PLAINTEXT
    assert "itself" in permit.note
    assert permit_to_itself(attempt(mesh, mesh.destination.context.workload)) is None
    assert permit_to_itself(attempt(mesh, None)) is None


async def test_records_have_names_of_their_own(mesh: Mesh) -> None:
    records: list[ConnectionRecord] = [mesh.source.context.begin(Direction.INBOUND) for _ in range(100)]
    assert len({record.id for record in records}) == len({record.trace_id for record in records}) == 100
    assert all(len(record.id) == 16 and len(record.trace_id) == 32 for record in records)
