"""A clock that stands still, and what a node sends when all is well."""

from datetime import UTC, datetime

import pytest

from interceptor.identity.authority import Authority
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain


@pytest.fixture(scope="session")
def now() -> datetime:
    return datetime(2026, 3, 4, 5, 6, 7, 890, tzinfo=UTC)


@pytest.fixture(scope="session")
def issuer(now: datetime) -> Authority:
    return Authority.create(TrustDomain("cluster.local"), now)


@pytest.fixture(scope="session")
def web() -> SpiffeId:
    return SpiffeId(TrustDomain("cluster.local"), "default", "web")
