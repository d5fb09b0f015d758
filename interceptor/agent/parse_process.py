"""The program of a process that parses policies for the agent: `python -m interceptor.agent.parse_process`.

It gets texts on standard input and answers with documents on standard output, and has nothing else: no keys, no sockets,
no files, and bounds on its memory. Pickles go both ways: the two are one program, of one version.
"""

from __future__ import annotations

import gc
import pickle
import resource
import sys
from typing import TYPE_CHECKING

from interceptor.agent.parsing import dump, parse_packed

if TYPE_CHECKING:
    from interceptor.agent.parsing import Parsed, Work

MAX_MEMORY = 4 * 1024 * 1024 * 1024
BATCH = 500  # parts that are parsed before they are packed, which takes a tenth of the memory


def main() -> None:
    """Read everything, parse it, write everything."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.disable()  # documents have no cycles, and this process ends soon
    work: Work = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the agent that started us
    parsed: list[Parsed] = []
    for start in range(0, len(work.parts), BATCH):
        parsed += parse_packed(work.parts[start : start + BATCH], work.mesh)
    dump(parsed, sys.stdout.buffer)


if __name__ == "__main__":
    main()
