"""What the service tells those who watch it: metrics, and whether it is ready, on a port of its own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from interceptor.authority.rotation import laggards
from interceptor.errors import AuthorityError
from interceptor.identity.certificates import fingerprint
from interceptor.metrics_server import MetricsServer
from interceptor.telemetry.authority_series import AuthoritySeries, AuthorityState
from interceptor.telemetry.expiry import AuthorityExpiry

if TYPE_CHECKING:
    from cryptography import x509

    from interceptor.authority.node_record import NodeRecord
    from interceptor.authority_service.desk import AuthorityDesk
    from interceptor.authority_service.view import View
    from interceptor.workload import Endpoint

WORTH_TELLING_SECONDS = 10.0  # a database that cannot be read for longer is not used


def state_of(view: View, unread_seconds: float) -> AuthorityState:
    """How the authority stands, by what was read of it last."""
    bundle_hash = view.trust.bundle_hash
    own = view.bundles.bundles[view.issuer.trust_domain].roots
    intermediate = view.issuer.intermediate
    begins, ends = intermediate.not_valid_before_utc, intermediate.not_valid_after_utc
    return AuthorityState(
        authorities=(*(_expiry("root", root) for root in own), _expiry("intermediate", intermediate)),
        renewal_due=(begins + (ends - begins) / 2).timestamp(),
        has_root_key=view.issuer.root_key is not None,
        phase=view.rotation.phase.value,
        lagging=len(laggards(view.rotation, bundle_hash, view.nodes.values())),
        nodes=Counter(_state(node, bundle_hash) for node in view.nodes.values()),
        unread_seconds=unread_seconds,
    )


async def serve_metrics(desk: AuthorityDesk, address: Endpoint) -> None:
    """Until cancelled; AuthorityError when the address is not free."""

    def missing() -> list[str]:
        found = [] if desk.audit.is_well() else ["the audit cannot be written, nothing is issued"]
        unread = desk.views.unread_seconds()
        return (
            found
            if unread < WORTH_TELLING_SECONDS
            else [*found, f"the database is unread for {unread:.0f} s"]
        )

    series = AuthoritySeries(
        desk.audit.counts, lambda: state_of(desk.views.last, desk.views.unread_seconds())
    )
    try:
        listeners = await trio.open_tcp_listeners(address.port, host=str(address.address))
    except OSError as error:
        raise AuthorityError(
            f"cannot listen on {address} for metrics ({error.strerror}): give --metrics a free port of this machine"
        ) from error
    await MetricsServer(series.expose, missing).serve(listeners[0])


def _expiry(kind: str, certificate: x509.Certificate) -> AuthorityExpiry:
    return AuthorityExpiry(kind, fingerprint(certificate), certificate.not_valid_after_utc.timestamp())


def _state(node: NodeRecord, bundle_hash: str) -> str:
    """As 'interceptor ca nodes' has it."""
    if node.revoked:
        return "revoked"
    if node.report is None:
        return "silent"
    return "current" if node.report.bundle_hash == bundle_hash else "behind"
