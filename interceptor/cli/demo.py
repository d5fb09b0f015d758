"""demo: the two-minute tour.  Each thing that it claims is checked."""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interceptor.cli import connections, nouns
from interceptor.cli.context import require_root
from interceptor.cli.explain import explanation_lines
from interceptor.cli.output import cell_style, coloured, is_colourful
from interceptor.cli.sniffer import Sniffer
from interceptor.cli.stage import PYTHON, WAIT_SECONDS, DemoFailed, Program, Stage, run_outside
from interceptor.cli.table import Column, render

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.cli.sniffer import Sniffed

_INDENT = "   "
_LINE_WIDTH = 100 - len(_INDENT)
_OUTSIDE = "10.214.0.1"  # the host's own address on the bridge of the demo
_WEB_COMMAND = ("-m", "http.server", "80", "--bind", "::")
_FILE = "secret.txt"
_POLL_SECONDS = 0.05


@click.command()
def demo() -> None:
    """Show on this machine, in half a minute, what interceptor does; each claim is checked.

    \b
    It starts an agent of its own with files, addresses and certificates of its own, so
    that it disturbs none that is running, and two programs that know nothing of TLS: a
    web server and curl. At the end everything is removed again. Exit status 1 if
    something that is claimed does not hold.

    \b
    Examples:
      sudo interceptor demo
    """
    require_root("interceptor demo")
    if shutil.which("curl") is None:
        raise DemoFailed("the demo needs curl: apt-get install curl")
    if not Path(PYTHON).exists():
        raise DemoFailed(f"the demo needs {PYTHON} for its web server: apt-get install python3")
    started = time.monotonic()
    with Stage() as stage:
        Performance(stage).play()
    click.echo(f"\nDone in {time.monotonic() - started:.1f} s. Every line with 'ok' was checked.")


class Performance:
    """The acts, in order; each shows the command that a person would type."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._marker = f"launch code {secrets.token_hex(8)}"
        self._acts = 0

    def play(self) -> None:
        """All acts.  DemoFailed when a claim does not hold."""
        click.echo("Two programs that know nothing of TLS talk over mutual TLS, and a third is refused.")
        self._start_agent()
        web, client = self._start_programs()
        self._talk(web, client)
        self._show_identities()
        self._refuse_outsider()
        self._explain()
        self._take_down()

    def _start_agent(self) -> None:
        self._act("Start the agent: BPF programs, and a certificate authority of its own")
        self._typed("sudo interceptor up")
        self._stage.interceptor("up", tell=_tell)

    def _start_programs(self) -> tuple[Program, Program]:
        self._act("Run a web server and a shell, each as a workload with an identity of its own")
        self._typed(f"sudo interceptor run --service-account web -- python3 {' '.join(_WEB_COMMAND)}")
        web = self._stage.start_workload("web", PYTHON, *_WEB_COMMAND)
        (self._stage.directory / "www" / _FILE).write_text(f"{self._marker}\n", encoding="ascii")
        web.read_until("Serving HTTP on")
        self._typed("sudo interceptor run --service-account client -- sh")
        client = self._stage.start_workload("client", "/bin/sh")
        client.type("true")
        self._typed("sudo interceptor workloads")
        self._table(nouns.WORKLOADS, self._stage.session.ask("workloads"))
        return web, client

    def _talk(self, web: Program, client: Program) -> None:
        self._act("In that shell, curl fetches a file; every packet on the web server's link is recorded")
        link = self._workload("web")["host_link"]
        web.read_available()
        try:
            sniffer = Sniffer(link)
        except OSError as error:
            raise DemoFailed(f"cannot record the packets of {link}: {error.strerror}") from error
        with sniffer:
            for version in self._versions():
                status, lines = self._typed_inside(client, f"curl -sS -{version} http://web/{_FILE}")
                _claim(status == 0 and lines == [self._marker], f"curl got the file over IPv{version}")
            self._rows(2 * len(self._versions()), lambda row: row["verdict"] == "permit")
            sniffed = sniffer.take()
        self._show_log(web)
        self._show_wire(sniffed)

    def _show_log(self, web: Program) -> None:
        # On a socket for both versions, an IPv4 client's address is shown as ::ffff:a.b.c.d.
        log = [line.removeprefix("::ffff:") for line in web.read_available().splitlines() if "GET" in line]
        clients = [line.partition(" ")[0] for line in log]
        _claim(
            sorted(clients) == sorted(self._workload("client")["addresses"]),
            f"the web server's own log has the client's real addresses: {', '.join(clients)}",
        )

    def _show_wire(self, sniffed: Sniffed) -> None:
        _claim(
            sniffed.tls_records > 0 and sniffed.bytes_outside_tls == 0,
            f"on the wire: {sniffed.packets} packets, {sniffed.payload_bytes} bytes in {sniffed.tls_records} TLS "
            "records, none outside of one",
        )
        _claim(sniffed.count(self._marker.encode()) == 0, f"0 packets with the plaintext '{self._marker}'")

    def _show_identities(self) -> None:
        self._act("Each side has proven who it is, with a certificate that the agent keeps fresh")
        self._typed("sudo interceptor connections")
        rows = self._rows(2 * len(self._versions()), lambda row: row["verdict"] == "permit")
        self._table(connections.COLUMNS, rows)
        domain = self._stage.session.config.trust_domain
        identities = [f"spiffe://{domain}/ns/default/sa/{name}" for name in ("client", "web")]
        proven = [[row["source_identity"], row["destination_identity"]] for row in rows]
        _claim(
            all(each == identities for each in proven),
            "each record has both identities, proven by certificate:",
        )
        _tell(f"    {' -> '.join(identities)}")
        _claim(
            {row["tls_version"] for row in rows} == {"TLSv1.3"},
            f"over {rows[0]['tls_version']}, {rows[0]['tls_cipher']}, {rows[0]['tls_key_exchange']}",
        )
        self._typed("sudo interceptor certificates")
        certificates = self._stage.session.ask("certificates")
        self._table(nouns.CERTIFICATES, certificates)
        _claim(all(each["state"] == "valid" for each in certificates), "both are valid")

    def _refuse_outsider(self) -> None:
        self._act("A program outside the mesh (this host itself) tries the same")
        address = self._workload("web")["addresses"][0]
        command = f"curl -sS --max-time 5 http://{address}/{_FILE}"
        self._typed(command)
        status, lines = run_outside(command, self._stage.directory)
        for line in lines:
            _tell(line)
        _claim(status != 0 and self._marker not in "".join(lines), "it is refused")
        self._typed("sudo interceptor connections --denied")
        rows = self._rows(1, lambda row: row["verdict"] == "denial")
        self._table(connections.COLUMNS, rows)
        _claim(rows[0]["reason"] == "plaintext_refused", str(rows[0]["detail"]))

    def _explain(self) -> None:
        self._act("Why? Any connection can be explained, before it is made")
        for source, verdict in (("client", "permit"), (_OUTSIDE, "denial")):
            self._typed(f"sudo interceptor explain {source} web:80")
            answer = self._stage.session.ask("explain", source=source, destination="web:80")
            for line in explanation_lines(answer, _LINE_WIDTH):
                _tell(line)
            if answer["verdict"] != verdict:
                raise DemoFailed(
                    f"the explanation of {source} -> web:80 says {answer['verdict']}, not {verdict}"
                )

    def _take_down(self) -> None:
        self._act("Take everything away")
        self._typed("sudo interceptor down --remove-audit")
        self._stage.interceptor("down", "--remove-audit", tell=_tell)
        left = [
            str(path)
            for path in (
                self._stage.bpf_dir,
                Path("/sys/class/net", self._stage.bridge),
                self._stage.session.config.paths.run_dir,
                self._stage.session.config.paths.state_dir,
            )
            if path.exists()
        ]
        _claim(not left, f"nothing is left{': ' if left else ''}{', '.join(left)}")

    def _versions(self) -> list[int]:
        """The IP versions that the web server has an address of."""
        return sorted(6 if ":" in address else 4 for address in self._workload("web")["addresses"])

    def _workload(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = [
            each for each in self._stage.session.ask("workloads") if each["name"] == name
        ]
        if not found:
            raise DemoFailed(f"workload {name} is not there any more")
        return found[0]

    def _rows(self, number: int, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """The records of that many closed connections; they come a moment after the programs' own end."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            rows = [
                row
                for row in self._stage.session.ask("connections", limit=100)
                if row["state"] == "closed" and wanted(row)
            ]
            if len(rows) >= number:
                return rows
            if time.monotonic() > deadline:
                raise DemoFailed(f"there are {len(rows)} connection records instead of {number}")
            time.sleep(_POLL_SECONDS)

    def _act(self, title: str) -> None:
        self._acts += 1
        heading = f"{self._acts}. {title}"
        click.echo(f"\n{_bold(heading)}")

    def _typed(self, command: str) -> None:
        click.echo(f"{_INDENT}$ {command}")

    def _typed_inside(self, shell: Program, command: str) -> tuple[int, list[str]]:
        click.echo(f"{_INDENT}(client) $ {command}")
        status, lines = shell.type(f"{command} --max-time 10")
        for line in lines:
            _tell(line)
        return status, lines

    def _table(self, columns: Sequence[Column], rows: list[dict[str, Any]]) -> None:
        for line in render(columns, rows, line_width=_LINE_WIDTH, style=cell_style()):
            _tell(line)


def _bold(text: str) -> str:
    return click.style(text, bold=True) if is_colourful() else text


def _tell(line: str) -> None:
    click.echo(f"{_INDENT}{line}".rstrip())


def _claim(holds: bool, text: str) -> None:
    if not holds:
        raise DemoFailed(f"this does not hold: {text}")
    _tell(f"{coloured('ok')}  {text}")
