"""Who has which workloads, names and addresses: a name or address belongs to the node that reported it first."""

import sqlite3
from collections.abc import Iterator
from datetime import datetime

from interceptor.authority.admission import allowed
from interceptor.authority.documents import RegistryDocument
from interceptor.authority.node_record import NodeRecord
from interceptor.authority.refusal import Code, Refused
from interceptor.authority.reports import NodeReport, RegisteredWorkload
from interceptor.authority_store.rows import Head, read_nodes
from interceptor.identity.strict_json import instant_text


def store_report(
    connection: sqlite3.Connection, head: Head, record: NodeRecord, report: NodeReport, now: datetime
) -> Refused | None:
    """Keep a report; return what is to be said about workloads in it that other nodes will not hear of."""
    connection.execute(
        "UPDATE nodes SET report = ?, reported_at = ? WHERE name = ?",
        (report.to_json(), instant_text(now), record.name),
    )
    before = () if record.report is None else record.report.workloads
    changes = connection.total_changes
    problem = _claim(connection, record.name, report)
    if report.workloads != before or connection.total_changes != changes:
        raise_registry_version(connection)
    return problem or _not_allowed(head, record, report)


def raise_registry_version(connection: sqlite3.Connection) -> None:
    """Let everybody read the registry anew."""
    connection.execute("UPDATE authority SET registry_version = registry_version + 1, version = version + 1")


def release_node(connection: sqlite3.Connection, name: str) -> None:
    """Give free what a node had, because it is gone."""
    connection.execute("DELETE FROM claims WHERE node = ?", (name,))
    raise_registry_version(connection)


def read_registry(connection: sqlite3.Connection, head: Head) -> RegistryDocument:
    """The workloads that every node may know."""
    owners = dict(connection.execute("SELECT what, node FROM claims").fetchall())
    found = (
        workload
        for record in read_nodes(connection, head.trust_domain)
        if record.report is not None and not record.revoked
        for workload in record.report.workloads
        if _is_allowed(head, record, workload)
        and all(owners.get(what) == record.name for what in _claimed(workload))
    )
    return RegistryDocument(head.registry_version, tuple(sorted(found, key=lambda workload: workload.key)))


def _claim(connection: sqlite3.Connection, node: str, report: NodeReport) -> Refused | None:
    wanted = {what for workload in report.workloads for what in _claimed(workload)}
    had = {what for (what,) in connection.execute("SELECT what FROM claims WHERE node = ?", (node,))}
    connection.executemany("DELETE FROM claims WHERE what = ?", [(what,) for what in sorted(had - wanted)])
    problem = None
    for what in sorted(wanted - had):
        row = connection.execute("SELECT node FROM claims WHERE what = ?", (what,)).fetchone()
        if row is not None:
            problem = problem or Refused(
                Code.ADDRESS_TAKEN, f"{what} of {node} is that of a workload on node {row[0]}"
            )
            continue
        connection.execute("INSERT INTO claims (what, node) VALUES (?, ?)", (what, node))
    return problem


def _claimed(workload: RegisteredWorkload) -> Iterator[str]:
    yield f"name {workload.key}"
    for address in workload.addresses:
        if not address.is_link_local:  # unique on its own link only
            yield f"address {address}"


def _not_allowed(head: Head, record: NodeRecord, report: NodeReport) -> Refused | None:
    for workload in report.workloads:
        if not _is_allowed(head, record, workload):
            identity = workload.workload(head.trust_domain).identity
            return Refused(
                Code.IDENTITY_NOT_ON_NODE, f"{record.name} may not have a workload with {identity}"
            )
    return None


def _is_allowed(head: Head, record: NodeRecord, workload: RegisteredWorkload) -> bool:
    return allowed(record.allowed, workload.workload(head.trust_domain).identity)
