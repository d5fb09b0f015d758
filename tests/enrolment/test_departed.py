"""Who had an address is remembered for some seconds, unless the same identity has it again."""

from ipaddress import ip_address

import pytest

from interceptor.enrolment import departed
from interceptor.enrolment.departed import REMEMBERED_SECONDS, Departed
from interceptor.enrolment.registry import Registry
from tests.policy.world import DB, LEDGER, WEB, workload


def test_holder_that_has_gone_is_remembered_for_a_while() -> None:
    memory = Departed()
    both = Registry.empty().with_workload(WEB).with_remote([LEDGER])
    memory.note(both, both, 0.0)
    assert memory.holder(WEB.addresses[0], 0.0) is None
    memory.note(both, Registry.empty(), 1.0)
    for each in (WEB, LEDGER):
        assert memory.holder(each.addresses[0], 1.0 + REMEMBERED_SECONDS) == each
        assert memory.holder(each.addresses[0], 1.1 + REMEMBERED_SECONDS) is None
    assert memory.holder(ip_address("::ffff:10.0.0.1"), 2.0) == WEB
    assert memory.holder(DB.addresses[0], 2.0) is None


def test_address_that_another_identity_has_now_is_remembered_and_one_that_came_back_is_not() -> None:
    memory = Departed()
    before = Registry.empty().with_workload(WEB)
    memory.note(before, Registry.empty().with_workload(workload("shop", "new", "10.0.0.1")), 0.0)
    assert memory.holder(WEB.addresses[0], 1.0) == WEB
    again = Departed()
    again.note(before, Registry.empty().with_remote([WEB]), 0.0)
    assert again.holder(WEB.addresses[0], 1.0) is None


def test_memory_is_bounded_by_time_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Departed()
    before = Registry.empty().with_workload(WEB).with_workload(DB)
    memory.note(before, Registry.empty(), 0.0)
    memory.note(before, before, REMEMBERED_SECONDS + 1)
    assert not memory._gone
    monkeypatch.setattr(departed, "MAX_DEPARTED", 1)
    memory.note(before, Registry.empty(), 100.0)
    assert len(memory._gone) == 1
