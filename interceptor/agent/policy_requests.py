"""What can be asked of the agent about its policies, and what changes them through it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from interceptor.agent.policy_files import open_regular
from interceptor.agent.simulation import named, refused_peers, simulate
from interceptor.errors import PolicyError, UsageError
from interceptor.policy.documents import (
    AuthorizationPolicy,
    EgressPolicy,
    LegacyException,
    PeerAuthentication,
)
from interceptor.policy.lint import Inventory, warnings
from interceptor.policy.parse import MAX_FILE_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.admin import Command
    from interceptor.agent.node import Node
    from interceptor.policy.documents import Document

MAX_FILES = 1000  # of one request


class PolicyRequests:
    """The policy commands of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def commands(self) -> dict[str, Command]:
        """Every command by its name on the admin socket."""
        return {
            "policies": self._policies,
            "policy_check": self._check,
            "policy_simulate": self._simulate,
            "policy_apply": self._apply,
        }

    async def _policies(self, _: Mapping[str, Any]) -> object:
        """What is in force, and what is wrong with the files."""
        node, policies = self._node, self._node.policy.value
        inventory = self._inventory()
        # In a thread: of ten thousand documents this takes seconds, and they never change.
        warned, shown = await trio.to_thread.run_sync(
            lambda: (
                self._warnings(policies.documents, inventory),
                [self._document(document, inventory) for document in policies.documents],
            )
        )
        return {
            "directory": str(node.policies.directory),
            "state": "pending" if policies.pending else "refused" if node.policies.error else "ready",
            "error": node.policies.error or None,
            "loaded_at": node.policies.loaded_at.isoformat(timespec="seconds"),
            "root_namespace": policies.root_namespace,
            "mode": policies.mode.value,
            "warnings": [*node.policies.not_read, *warned],
            "documents": shown,
        }

    def _inventory(self) -> Inventory:
        return Inventory(self._node.registry.value.workloads, self._node.config.policy.root_namespace)

    def _warnings(self, documents: tuple[Document, ...], inventory: Inventory) -> list[str]:
        """What is valid and probably not meant."""
        root = self._node.config.policy.root_namespace
        found = warnings(documents, root, self._node.now(), inventory)
        return list(found)

    async def _warnings_of(self, documents: tuple[Document, ...]) -> list[str]:
        return await trio.to_thread.run_sync(self._warnings, documents, self._inventory())

    async def _check(self, request: Mapping[str, Any]) -> object:
        """Whether these files could be put in force, and what would be odd about it."""
        candidate = await self._node.policies.candidate(await _texts(request))
        return {
            "documents": len(candidate.documents),
            "warnings": await self._warnings_of(candidate.documents),
        }

    async def _simulate(self, request: Mapping[str, Any]) -> object:
        """What these files would change."""
        return await simulate(self._node, await self._node.policies.candidate(await _texts(request)))

    async def _apply(self, request: Mapping[str, Any]) -> object:
        """Put these files in force, unless that cuts off somebody who speaks plaintext and nobody said `force`."""
        texts = await _texts(request)
        candidate = await self._node.policies.candidate(texts)
        refused = await refused_peers(self._node, candidate)
        if refused and request.get("force") is not True:
            raise PolicyError(
                f"STRICT mode would cut off who came in plaintext within the last hour: {named(refused)}; enrol them, "
                "write a LegacyException, or use --force"
            )
        closed = await self._node.policies.apply(texts, str(request.get("by", "unknown"))[:200])
        return {
            "documents": len(candidate.documents),
            "connections_closed": closed,
            "cut_off": [named([peer]) for peer in refused],
            "warnings": await self._warnings_of(candidate.documents),
        }

    def _document(self, document: Document, inventory: Inventory) -> dict[str, object]:
        head = document.head
        return {
            "kind": head.name.kind.value,
            "namespace": head.name.namespace,
            "name": head.name.name,
            "selector": str(head.selector) or None,
            "file": head.place.file,
            "line": head.place.line,
            "effect": effect(document),
            "workloads": inventory.selected_by(document),
            **self._exception(document),
        }

    def _exception(self, document: Document) -> dict[str, object]:
        if not isinstance(document, LegacyException):
            return dict.fromkeys(("reason", "owner", "expires", "used"))
        return {
            "reason": document.reason,
            "owner": document.owner,
            "expires": document.expires.isoformat(),
            "used": self._node.audit.exceptions_used[str(document.head.name)],
        }


def effect(document: Document) -> str:
    """What a document does, in a few words."""
    match document:
        case PeerAuthentication():
            ports = "".join(f", {port}: {mode or 'UNSET'}" for port, mode in sorted(document.ports.items()))
            return f"{document.mode or 'UNSET'}{ports}"
        case AuthorizationPolicy():
            trial = ", dry run" if document.dry_run else ""
            return f"{document.action}, {len(document.rules)} rules{trial}"
        case LegacyException():
            return f"plaintext {document.direction} until {document.last_day}"
        case EgressPolicy():
            allow = "" if document.allow is None else f"allow {len(document.allow)}"
            refuse = f"refuse plaintext {len(document.refuse_plaintext)}" if document.refuse_plaintext else ""
            accept = f"accept plaintext {len(document.accept_plaintext)}" if document.accept_plaintext else ""
            return "TCP: " + ", ".join(filter(None, (allow, refuse, accept)))


async def _texts(request: Mapping[str, Any]) -> dict[str, str]:
    """The files that a request names, by their names without directories."""
    paths = request.get("files")
    if not isinstance(paths, list) or not 0 < len(paths) <= MAX_FILES:
        raise UsageError(f"name 1 to {MAX_FILES} files")
    found: dict[str, str] = {}
    for text in paths:
        path = Path(str(text))
        if path.name in found:
            raise UsageError(
                f"two of the files are called {path.name}, which is their name among the policies"
            )
        found[path.name] = await trio.to_thread.run_sync(read_policy_file, path)
    return found


def read_policy_file(path: Path) -> str:
    """The text of one file that a person named; UsageError when it cannot be a policy file."""
    if path.suffix not in (".yaml", ".yml") or path.name.startswith("."):
        raise UsageError(f"{path} does not end with .yaml or .yml")
    try:
        # Whatever has no end, or nobody who writes, must not be waited for.
        with open_regular(path) as file:
            return file.read(4 * MAX_FILE_CHARACTERS + 1).decode("utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8, at byte {error.start}") from error
