"""What nodes have told the replicas that a rotation must know: which roots they believe in, and which they still use.

A node talks to any replica, and the step of a rotation may be taken at another. Nodes that say the same are written
together: 10,000 of them fit into one ConfigMap.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from interceptor.authority.admission import ANY, AllowPattern
from interceptor.authority.node_record import NodeRecord
from interceptor.authority.reports import MAX_ISSUERS, NodeReport
from interceptor.identity.node_id import validate_node_name
from interceptor.identity.strict_json import Fields, canonical, instant_text, parse, parse_instant
from interceptor.shared_authority.objects import MAX_CONTENT_BYTES

FACTS: Final = "facts.json"
MAX_NODES: Final = 20_000
_WHAT: Final = "what nodes have told"


@dataclass(frozen=True, slots=True)
class NodeFact:
    """What one node believes and uses, and when it said so last as far as it mattered."""

    bundle_hash: str
    issuers: tuple[str, ...]
    reported_at: datetime


Facts = Mapping[str, NodeFact]


def facts_text(facts: Facts) -> bytes:
    """What is kept of facts."""
    groups: defaultdict[tuple[str, tuple[str, ...]], dict[str, str]] = defaultdict(dict)
    for node, fact in facts.items():
        groups[fact.bundle_hash, fact.issuers][node] = instant_text(fact.reported_at)
    said = [
        {"bundle_hash": bundle_hash, "issuers": list(issuers), "nodes": nodes}
        for (bundle_hash, issuers), nodes in sorted(groups.items())
    ]
    return canonical({"said": said})


def parse_facts(data: bytes) -> dict[str, NodeFact]:
    """What `facts_text` wrote; raises InvalidInput."""
    facts = {}
    for value in Fields(_WHAT, parse(_WHAT, data, MAX_CONTENT_BYTES), "said").array("said", MAX_NODES):
        group = Fields(_WHAT, value, "bundle_hash", "issuers", "nodes")
        bundle_hash, issuers = group.text("bundle_hash", 71), group.texts("issuers", MAX_ISSUERS, 64)
        for node, at in group.mapping("nodes", MAX_NODES, 253).items():
            facts[validate_node_name(node)] = NodeFact(bundle_hash, issuers, parse_instant(at))
    return facts


def merged(known: Facts, records: Iterable[NodeRecord], nodes: frozenset[str], since: datetime) -> Facts:
    """What is to be known after a replica has told its own; of `nodes` only, since the others are gone.

    A report that says the same as the one before is news only if that one is from before `since`, the last step of the
    rotation: so nothing is written as long as nothing is new.
    """
    facts = {node: fact for node, fact in known.items() if node in nodes}
    for record in records:
        if record.name not in nodes or record.report is None or record.reported_at is None:
            continue
        before = facts.get(record.name)
        if before is None or _is_news(before, record.report, record.reported_at, since):
            facts[record.name] = NodeFact(
                record.report.bundle_hash, record.report.issuers, record.reported_at
            )
    return facts


def news_of_others(facts: Facts, records: Iterable[NodeRecord]) -> Facts:
    """What other replicas have heard of these nodes, and we have not."""
    heard_at = {record.name: record.reported_at for record in records}
    return {
        node: fact
        for node, fact in facts.items()
        if node in heard_at and ((at := heard_at[node]) is None or at < fact.reported_at)
    }


def records_of(facts: Facts, nodes: Iterable[str], joined_at: datetime) -> tuple[NodeRecord, ...]:
    """The nodes as the authority's store has them; one that has told nothing is one without a report."""
    return tuple(_record(node, facts.get(node), joined_at) for node in sorted(nodes))


def _is_news(before: NodeFact, report: NodeReport, at: datetime, since: datetime) -> bool:
    if at <= before.reported_at:
        return False
    says_the_same = (before.bundle_hash, before.issuers) == (report.bundle_hash, report.issuers)
    return not says_the_same or before.reported_at <= since < at


def _record(node: str, fact: NodeFact | None, joined_at: datetime) -> NodeRecord:
    allowed = (AllowPattern(ANY, ANY),)
    if fact is None:
        return NodeRecord(node, allowed, joined_at, revoked=False, report=None, reported_at=None)
    # Of the document's hash, which nothing depends on, no word is kept: the bundles' stands for it.
    report = NodeReport(fact.bundle_hash, fact.bundle_hash, fact.issuers, (), fact.reported_at)
    return NodeRecord(node, allowed, joined_at, revoked=False, report=report, reported_at=fact.reported_at)
