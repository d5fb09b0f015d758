"""How an authority's own certificates stand, over the years, with the root key at hand and elsewhere."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from interceptor.authority.outlook import Outlook, intermediate_outlook, root_outlook
from interceptor.identity.authority import Authority
from interceptor.identity.spiffe_id import TrustDomain

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
DAY = timedelta(days=1)
HERE = Authority.create(TrustDomain("cluster.local"), NOW)
ELSEWHERE = replace(HERE, root_key=None)


@pytest.mark.parametrize(
    ("days", "state", "overdue"),
    [
        (0, "valid", False),
        (182, "valid", False),
        (183, "due", False),
        (273, "due", False),
        (274, "late", True),
        (365, "expired", True),
    ],
)
def test_intermediate_is_due_at_half_and_late_at_three_quarters_of_its_life(days, state, overdue):
    for issuer in (HERE, ELSEWHERE):
        outlook = intermediate_outlook(issuer, NOW + days * DAY)
        assert (outlook.state, outlook.is_overdue) == (state, overdue)
    if state == "valid":
        assert outlook == Outlook("valid")
    else:
        assert (
            "put root.key back into its directory, run 'interceptor ca rotate intermediate'" in outlook.remedy
        )
        assert "the service renews it by itself" in intermediate_outlook(HERE, NOW + days * DAY).remedy


@pytest.mark.parametrize(
    ("days", "state", "overdue"),
    [(0, "valid", False), (2737, "valid", False), (2738, "late", True), (3650, "expired", True)],
)
def test_root_is_late_at_three_quarters_of_its_life(days, state, overdue):
    outlook = root_outlook(ELSEWHERE, NOW + days * DAY)
    assert (outlook.state, outlook.is_overdue) == (state, overdue)
    assert ("rotate prepare" in outlook.remedy) is overdue
