"""What nodes have told, as the replicas share it."""

from datetime import UTC, datetime, timedelta

import pytest

from interceptor.authority.admission import ANY, AllowPattern
from interceptor.authority.node_record import NodeRecord
from interceptor.authority.reports import NodeReport
from interceptor.authority.rotation import Phase, RotationState, laggards
from interceptor.errors import InvalidInput
from interceptor.shared_authority.node_facts import (
    NodeFact,
    facts_text,
    merged,
    news_of_others,
    parse_facts,
    records_of,
)
from interceptor.shared_authority.objects import MAX_CONTENT_BYTES

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
OLD, NEW = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
ROOT, NEXT_ROOT = "a" * 64, "b" * 64
NODES = frozenset({"node-1", "node-2"})
FACT = NodeFact(OLD, (ROOT,), NOW)


def record(name="node-1", at=NOW, bundle_hash=OLD, issuers=(ROOT,)):
    report = None if at is None else NodeReport(bundle_hash, bundle_hash, issuers, (), at)
    return NodeRecord(name, (AllowPattern(ANY, ANY),), BEGAN, revoked=False, report=report, reported_at=at)


def test_facts_are_read_as_they_were_written():
    facts = {"node-1": FACT, "node-2": NodeFact(NEW, (ROOT, NEXT_ROOT), NOW), "node-3": FACT}
    assert parse_facts(facts_text(facts)) == facts
    assert facts_text({}) == b'{"said":[]}'


def test_facts_of_ten_thousand_nodes_fit_into_one_object():
    facts = {f"ip-10-0-{number}.eu-central-1.compute.internal": FACT for number in range(10_000)}
    assert len(facts_text(facts)) < MAX_CONTENT_BYTES
    assert len(parse_facts(facts_text(facts))) == 10_000


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b'{"said": [1]}', b'{"said": [{"bundle_hash": "", "issuers": [], "nodes": {"A_": "x"}}]}'],
)
def test_facts_that_are_none_are_refused(data):
    with pytest.raises(InvalidInput):
        parse_facts(data)


@pytest.mark.parametrize(
    ("told", "since", "is_news"),
    [
        (record(at=NOW + MINUTE), NOW - MINUTE, False),  # the same again
        (record(at=NOW + MINUTE), NOW, True),  # the same, for the first time since the rotation went on
        (record(at=NOW + MINUTE), NOW + 2 * MINUTE, False),
        (record(at=NOW + MINUTE, bundle_hash=NEW), BEGAN, True),
        (record(at=NOW + MINUTE, issuers=(NEXT_ROOT,)), BEGAN, True),
        (record(at=NOW, bundle_hash=NEW), BEGAN, False),  # another replica heard it later
    ],
)
def test_report_is_news_only_if_a_rotation_must_know_it(told, since, is_news):
    facts = merged({"node-1": FACT}, [told], NODES, since)
    assert (facts["node-1"] != FACT) is is_news
    assert facts["node-1"].reported_at == (told.reported_at if is_news else NOW)


def test_facts_are_of_nodes_that_are_there_and_have_told_something():
    assert merged({"gone": FACT}, [record("node-2", None), record("gone"), record()], NODES, BEGAN) == {
        "node-1": FACT
    }


def test_rotation_waits_for_nodes_that_told_nothing_and_for_those_that_lag():
    state = RotationState(Phase.DISTRIBUTED, NOW - MINUTE, ROOT, NEXT_ROOT)
    facts = {"node-1": NodeFact(NEW, (ROOT,), NOW), "node-2": FACT}
    records = records_of(facts, ["node-1", "node-2", "node-3"], BEGAN)
    assert [(each.node, each.why.split(",")[0]) for each in laggards(state, NEW, records)] == [
        ("node-2", "uses another trust bundle"),
        ("node-3", "has not reported yet"),
    ]


def test_replica_hears_what_others_heard_later_than_itself():
    facts = dict.fromkeys(("node-1", "node-2", "node-3", "unknown"), FACT)
    own = [record("node-1", NOW - MINUTE), record("node-2", None), record("node-3", NOW)]
    assert news_of_others(facts, own) == {"node-1": FACT, "node-2": FACT}
