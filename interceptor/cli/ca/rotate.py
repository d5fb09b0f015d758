"""ca rotate: a new root, or a new intermediate, without a failed connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from interceptor.agent.clock import wall_clock
from interceptor.authority.rotation import MAX_LISTED, Phase, Step
from interceptor.cli.ca.opening import with_any_audited_store, with_any_store
from interceptor.cli.output import output_option, print_data
from interceptor.errors import utc

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.authority.rotation import RotationStatus
    from interceptor.authority_service.command_audit import CommandAudit
    from interceptor.authority_store import AuthorityStore

_DONE = {
    Phase.STABLE: "one root is in use",
    Phase.PREPARED: "a new root is made, and nobody knows it yet",
    Phase.DISTRIBUTED: "both roots are on their way to the nodes",
    Phase.ACTIVATED: "new certificates come from the new root; those of the old one are renewed",
}


@click.group()
def rotate() -> None:
    """Replace the root: prepare, distribute, activate, retire; or the intermediate alone.

    Each step is refused until every node has confirmed the one before; 'ca rotate status' shows
    who lags. Nodes that are gone are removed with 'ca node remove'. A rotation that was begun
    can be aborted until it is activated.

    \b
    Examples:
      sudo interceptor ca rotate prepare
      sudo interceptor ca rotate status
    """


def _step(step: Step, explanation: str) -> Callable[[AuthorityStore, CommandAudit], None]:
    @rotate.command(step.value, help=f"{explanation}\n\n\b\nExamples:\n  sudo interceptor ca rotate {step}")
    @with_any_audited_store
    def command(store: AuthorityStore, audit: CommandAudit) -> None:
        with audit.noting(f"rotate {step}") as result:
            state = store.rotate(step, wall_clock())
            result |= {"phase": state.phase.value, "active_root": state.active, "other_root": state.other}
        click.echo(f"{state.phase}: {_DONE[state.phase]}")
        _warn_of_tokens(store, step)

    return command


def _warn_of_tokens(store: AuthorityStore, step: Step) -> None:
    """Tokens name the root that issued when they were made."""
    nodes = [token.node for token in store.tokens() if token.state(wall_clock()) == "unused"]
    if step is Step.ACTIVATE and nodes:
        click.echo(
            f"interceptor: warning: tokens of before name the old root, and let nobody in any more, make others for: "
            f"{', '.join(sorted(set(nodes))[:MAX_LISTED])}",
            err=True,
        )


_step(Step.PREPARE, "Make a new root and intermediate; nothing else changes.")
_step(Step.DISTRIBUTE, "Send the new root to every node, beside the old one.")
_step(Step.ACTIVATE, "Issue from the new root, once every node believes in it.")
_step(
    Step.RETIRE,
    "Take the old root from every node and destroy its keys, once no certificate in use leads to it.",
)
_step(Step.ABORT, "Take back what was prepared or distributed, and destroy the new keys.")


@rotate.command()
@with_any_audited_store
def intermediate(store: AuthorityStore, audit: CommandAudit) -> None:
    """Issue from a new intermediate at once; needs the root key, and no node to confirm anything.

    \b
    Examples:
      sudo interceptor ca rotate intermediate
    """
    with audit.noting("rotate intermediate") as result:
        issuer = store.rotate_intermediate(wall_clock())
        result["serial"] = f"{issuer.intermediate.serial_number:x}"
    click.echo(
        f"new intermediate, serial {issuer.intermediate.serial_number:x}, valid until {utc(issuer.not_after)}"
    )


@rotate.command()
@output_option
@with_any_store
def status(store: AuthorityStore, output: str) -> None:
    """Say how far the rotation is, what comes next, and which nodes it waits for.

    \b
    Examples:
      sudo interceptor ca rotate status
      sudo interceptor ca rotate status -o json
    """
    shown = store.rotation_status()
    if output != "table":
        print_data(_data(shown), output)
        return
    state = shown.state
    click.echo(f"phase     {state.phase}, since {utc(state.since)}: {_DONE[state.phase]}")
    click.echo(f"issuing   {state.active}")
    if state.other is not None:
        click.echo(f"other     {state.other}")
    click.echo(f"next      interceptor ca rotate {shown.next_step}")
    for laggard in shown.laggards:
        click.echo(f"waits for {laggard.node}: {laggard.why}")


def _data(shown: RotationStatus) -> dict[str, object]:
    return {
        "phase": shown.state.phase.value,
        "since": shown.state.since.isoformat(),
        "active_root": shown.state.active,
        "other_root": shown.state.other,
        "next_step": shown.next_step.value,
        "waiting_for": [{"node": laggard.node, "why": laggard.why} for laggard in shown.laggards],
    }
