"""psql to PostgreSQL and redis-benchmark to redis-server, unmodified, over IPv4 and IPv6."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness.process import run, wait_until
from tests.harness.records import assert_mutual_tls
from tests.harness.tcp import FAMILIES, family_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.namespace import Workload
    from tests.harness.node import Node
    from tests.harness.process import Program

pytestmark = [pytest.mark.netns, pytest.mark.bpf, pytest.mark.timeout(60)]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=family_id)

MARKER = b"marker of the row: c04d19"
POSTGRES_PORT, REDIS_PORT = 5432, 6379
AS_POSTGRES = ("runuser", "-u", "postgres", "--")


def postgres_binaries() -> Path:
    """Where Debian has the server's programs, of the newest version installed."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture(scope="module")
def database(shared_node: Node) -> Iterator[tuple[Workload, Program]]:
    """A workload with PostgreSQL on a cluster made for it, and the server's program."""
    workload = shared_node.workload("database")
    data = shared_node.files / "postgres"
    data.mkdir(mode=0o700)
    shutil.chown(data, "postgres", "postgres")
    initdb = [postgres_binaries() / "initdb", "--pgdata", data, "--no-sync", "--auth=trust"]
    run([*AS_POSTGRES, *initdb, "--locale=C.UTF-8"], cwd=Path("/")).check()
    with (data / "pg_hba.conf").open("a") as file:
        file.write("host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n")
    settings = ["listen_addresses=*", "unix_socket_directories=", "log_connections=on", "fsync=off"]
    server = workload.spawn(
        *AS_POSTGRES,
        postgres_binaries() / "postgres",
        *("-D", data),
        *(word for setting in settings for word in ("-c", setting)),
        ready_port=POSTGRES_PORT,
        cwd=Path("/"),
    )
    server.wait_for_output("ready to accept connections")
    yield workload, server
    workload.close()


@pytest.fixture(scope="module")
def cache(shared_node: Node) -> Iterator[Workload]:
    """A workload with redis-server."""
    workload = shared_node.workload("cache")
    options = {"port": REDIS_PORT, "bind": "* -::*", "protected-mode": "no", "save": "", "appendonly": "no"}
    configuration = shared_node.files / "redis.conf"
    configuration.write_text("".join(f"{name} {value or chr(34) * 2}\n" for name, value in options.items()))
    workload.spawn("redis-server", configuration, ready_port=REDIS_PORT, cwd=shared_node.files)
    yield workload
    workload.close()


@each_family
def test_psql_sends_and_reads_rows_encrypted_and_the_servers_log_has_the_clients_address(
    shared_node: Node, shared_client: Workload, database: tuple[Workload, Program], family: int
) -> None:
    workload, server = database
    since = shared_node.mark()
    sql = f"""
        CREATE TEMPORARY TABLE rows AS
            SELECT number, '{MARKER.decode()}' AS text FROM generate_series(1, 20000) AS number;
        SELECT count(*), min(text), inet_client_addr() FROM rows;
        COPY rows TO STDOUT;
    """
    address = workload.address(family)
    with shared_node.wire(shared_client, workload, marker=MARKER):
        result = shared_client.run(
            *(
                "psql",
                "--no-psqlrc",
                "--host",
                address,
                "--username",
                "postgres",
                "--tuples-only",
                "--no-align",
            ),
            input_bytes=sql.encode(),
        ).check()
    lines = result.stdout.splitlines()
    assert f"20000|{MARKER.decode()}|{shared_client.address(family)}" in lines
    assert len([line for line in lines if line.endswith(f"\t{MARKER.decode()}")]) == 20000
    assert_mutual_tls(shared_node.wait_for_pair(since=since), shared_client, workload)
    assert f"connection received: host={shared_client.address(family)} " in server.stderr


def test_cancel_request_over_a_second_connection_ends_a_query(
    shared_client: Workload, database: tuple[Workload, Program]
) -> None:
    workload, server = database
    arguments = ["psql", "--no-psqlrc", "--host", workload.ipv4, "--username", "postgres", "--command"]
    slow = shared_client.spawn(*arguments, "SELECT 'runs', pg_sleep(100)")
    asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT ''runs''%'"
    wait_until(
        lambda: shared_client.run(*arguments, asked, "--tuples-only").check().stdout.strip() == "1",
        "the query runs",
    )
    slow.signal(2)  # SIGINT: psql asks the server to cancel, over a connection of its own
    assert slow.wait() != 0
    assert "canceling statement due to user request" in slow.stderr
    del server


@each_family
def test_redis_benchmark_runs_encrypted_and_the_server_lists_the_clients_address(
    shared_node: Node, shared_client: Workload, cache: Workload, family: int
) -> None:
    since = shared_node.mark()
    host = ("-h", cache.address(family))
    with shared_node.wire(shared_client, cache, marker=MARKER):
        shared_client.run("redis-cli", *host, "SET", "key", MARKER.decode()).check()
        assert shared_client.run("redis-cli", *host, "GET", "key").check().stdout_bytes.strip() == MARKER
        clients = shared_client.run("redis-cli", *host, "CLIENT", "LIST").check().stdout
        result = shared_client.run(
            *(
                "redis-benchmark",
                *host,
                "-n",
                "3000",
                "-c",
                "20",
                "-d",
                "1024",
                "-t",
                "set,get,lpush",
                "--csv",
            )
        ).check()
    found = re.findall(r" addr=(\S+):\d+ ", clients)
    assert found == [shared_client.ipv4 if family == FAMILIES[0] else f"[{shared_client.ipv6}]"]
    assert [line.split(",")[0] for line in result.stdout.splitlines()[1:]] == ['"SET"', '"GET"', '"LPUSH"']
    assert_mutual_tls(shared_node.wait_for_pair(since=since), shared_client, cache)
    # 3 of redis-cli, 20 for each kind of request, and what the benchmark asks before.
    shared_node.wait_for_records(lambda record: record["verdict"] == "permit", 2 * 63, since=since)
    assert [record for record in shared_node.records(since) if record["verdict"] != "permit"] == []
