"""The node's return token on its disk: with it the node comes back after a boot, which ends its key.

It is worth one use, at the authority alone, as this node, and only until the node has been given the next one. The next
one is on the disk before the authority hears of it, and the present one until the authority has answered.
"""

from __future__ import annotations

import json
import logging
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from interceptor.agent.state import write_atomically
from interceptor.authority.return_tokens import SECRET_BYTES, ReturnToken
from interceptor.errors import InvalidInput, StateError

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

RETURN_FILE = "return.token"


class ReturnTokens:
    """The present token and the one that was offered, None for none; the state directory says whose they are.

    problem   why the next one could not be kept, None when it could
    """

    def __init__(self, state_dir: Path) -> None:
        """What is there; a file that cannot be read is as good as none."""
        self._path = state_dir / RETURN_FILE
        self.problem: str | None = None
        self.look_again()

    def look_again(self) -> None:
        """Another agent of this node may have been given a newer one, before it handed over."""
        self._present, self._next = self._read()
        if self._present is None:  # it was offered together with an operator's token
            self._present, self._next = self._next, None

    @property
    def present(self) -> str | None:
        """The token to come back with, None when there is none."""
        return None if self._present is None else self._present.text()

    def offer(self) -> str:
        """The hash of the next token, which is on the disk from now on; nothing when it cannot be."""
        following = self._next or ReturnToken(secrets.token_bytes(SECRET_BYTES))
        try:
            self._write(self._present, following)
        except StateError as error:
            if self.problem is None:
                log.warning("this node could not come back after a boot without a new token: %s", error)
            self.problem = str(error)
            return ""
        self.problem = None
        self._next = following
        return following.hash()

    def taken(self) -> None:
        """The authority has taken what was offered: the token before is worth nothing."""
        self._present, self._next = self._next, None
        self._try_to_write()

    def declined(self) -> None:
        """The authority has not taken it: the token before is worth what it was."""
        self._next = None
        self._try_to_write()

    def remove(self) -> None:
        """Keep nothing any more."""
        self._present = self._next = None
        self._path.unlink(missing_ok=True)

    def _try_to_write(self) -> None:
        # What stands there instead says both, and the authority knows which of them counts.
        with suppress(StateError):
            self._write(self._present, self._next)

    def _write(self, present: ReturnToken | None, following: ReturnToken | None) -> None:
        texts = {
            "present": None if present is None else present.text(),
            "next": None if following is None else following.text(),
        }
        write_atomically(self._path, json.dumps(texts).encode())

    def _read(self) -> tuple[ReturnToken | None, ReturnToken | None]:
        try:
            content = json.loads(self._path.read_bytes())
            return _parsed(content["present"]), _parsed(content["next"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError, InvalidInput):
            return None, None


def _parsed(text: object) -> ReturnToken | None:
    return None if text is None else ReturnToken.parse(str(text))
