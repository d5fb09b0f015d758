"""ca init, ca status, ca bundle: make an authority, and what it is."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from interceptor.agent.authority_process import AUDIT_FILE
from interceptor.agent.clock import wall_clock
from interceptor.authority.outlook import Outlook, intermediate_outlook, root_outlook
from interceptor.authority_service.command_audit import command_line
from interceptor.authority_store import AuthorityStore
from interceptor.cli.ca.opening import place_options, said, with_any_store
from interceptor.cli.ca.operator import operator
from interceptor.cli.output import coloured, output_option, print_data
from interceptor.cli.quantities import in_seconds, seconds_until
from interceptor.errors import StateError, utc
from interceptor.identity.certificates import fingerprint
from interceptor.identity.spiffe_id import TrustDomain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cryptography import x509

    from interceptor.cli.context import Session


@click.command()
@click.option(
    "--trust-domain", help="Whose authority it will be.  [default: trustDomain of the configuration]"
)
@place_options
def init(session: Session, directory: Path, passphrase: bytes | None, trust_domain: str | None) -> None:
    """Make a new authority: a root for ten years, an intermediate for one.

    Its private keys are stored with mode 0600, encrypted if there is a passphrase. The root's,
    root.key, is needed only to renew the intermediate and to begin a rotation of it: move it to
    a safe place, and put it back for these.

    \b
    Examples:
      sudo interceptor ca init
      sudo interceptor ca init --dir /srv/ca --trust-domain prod.example --passphrase-file /root/pass
    """
    domain = session.config.trust_domain if trust_domain is None else said(TrustDomain.parse, trust_domain)
    _make_parent(directory.parent)
    now, values = wall_clock(), {"trust_domain": domain.name, "encrypted": passphrase is not None}
    line = command_line("command_done", "init", operator(), {"values": values}, now)
    beside = {AUDIT_FILE: f"{line}\n".encode()}  # it appears with the authority, or not at all
    made = AuthorityStore.create(directory, domain, now, passphrase=passphrase, beside=beside)
    with closing(made) as store:
        root = store.issuer(now).root
    click.echo(f"authority of {domain} made in {directory}")
    click.echo(f"root certificate  SHA-256 {fingerprint(root)}, valid until {utc(root.not_valid_after_utc)}")


@click.command()
@output_option
@with_any_store
def status(store: AuthorityStore, output: str) -> None:
    """Say what the authority is, how long its certificates are valid, and how a rotation stands.

    Exit status 1 when its root or intermediate is past three quarters of its life and was not
    renewed.

    \b
    Examples:
      sudo interceptor ca status
      sudo interceptor ca status -o json
    """
    data = _described(store)
    if output != "table":
        print_data(data, output)
    else:
        for label, text in _status_lines(data):
            click.echo(f"{label:<14}{text}")
    if any(data[kind]["state"] in ("late", "expired") for kind in ("root", "intermediate")):
        sys.exit(1)


@click.command()
@with_any_store
def bundle(store: AuthorityStore) -> None:
    """Print the root certificates of this trust domain in PEM, for 'ca federate' elsewhere.

    \b
    Examples:
      sudo interceptor ca bundle > cluster.local.pem
    """
    document = store.trust_document()
    own = document.trust_bundles().bundles[document.trust_domain]
    click.echo(own.to_pem().decode("ascii"), nl=False)


def _make_parent(parent: Path) -> None:
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"cannot make the directory {parent}: {error.strerror}") from None


def _described(store: AuthorityStore) -> dict[str, Any]:
    now = wall_clock()
    issuer, document = store.issuer_as_it_is(), store.trust_document()
    rotation = store.rotation_status()
    return {
        "trust_domain": store.trust_domain.name,
        "directory": store.place,
        "root": _certificate(issuer.root, root_outlook(issuer, now)),
        "root_key": "present" if issuer.root_key is not None else "elsewhere",
        "intermediate": _certificate(issuer.intermediate, intermediate_outlook(issuer, now)),
        "rotation": rotation.state.phase.value,
        "waiting_for": [laggard.node for laggard in rotation.laggards],
        "nodes": len(store.nodes()),
        "tokens_unused": sum(token.state(now) == "unused" for token in store.tokens()),
        "revocations": len(document.revoked.entries),
        "federated": sorted(
            each.trust_domain.name for each in document.bundles if each.trust_domain != store.trust_domain
        ),
        "aliases": [each.name for each in document.aliases],
        "bundle_hash": document.bundle_hash,
    }


def _certificate(certificate: x509.Certificate, outlook: Outlook) -> dict[str, str]:
    return {
        "fingerprint": fingerprint(certificate),
        "serial_number": f"{certificate.serial_number:x}",
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "state": outlook.state,
        "remedy": outlook.remedy,
    }


def _status_lines(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    waiting = f", waiting for {', '.join(data['waiting_for'])}" if data["waiting_for"] else ""
    return [
        ("trust domain", data["trust_domain"]),
        ("directory", data["directory"]),
        ("root", f"{_left(data['root'])}, SHA-256 {data['root']['fingerprint']}"),
        *_remedy(data["root"]),
        ("root key", data["root_key"]),
        ("intermediate", f"{_left(data['intermediate'])}, serial {data['intermediate']['serial_number']}"),
        *_remedy(data["intermediate"]),
        ("rotation", data["rotation"] + waiting),
        ("nodes", f"{data['nodes']}, and {data['tokens_unused']} tokens to join with"),
        ("revocations", str(data["revocations"])),
        ("federated", ", ".join(data["federated"]) or "-"),
        ("aliases", ", ".join(data["aliases"]) or "-"),
    ]


def _remedy(certificate: Mapping[str, str]) -> list[tuple[str, str]]:
    """What is to be done about a certificate."""
    if not certificate["remedy"]:
        return []
    return [("", f"{coloured(certificate['state'])}: {certificate['remedy']}")]


def _left(certificate: Mapping[str, str]) -> str:
    return f"valid for {in_seconds(seconds_until(certificate['not_after'], wall_clock()))}"
