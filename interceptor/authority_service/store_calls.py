"""Call the authority's store from the loop: it may wait for the disk, or for another process."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import trio

from interceptor.authority.refusal import Code, Refused
from interceptor.errors import InterceptorError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_T = TypeVar("_T")


async def in_thread(function: Callable[..., _T], *arguments: object) -> _T:
    """What it returns; Refused when it refuses, or cannot."""
    try:
        return await trio.to_thread.run_sync(function, *arguments)
    except Refused:
        raise
    except InterceptorError as error:
        log.error("the authority's database refused: %s", error)  # noqa: TRY400
        raise Refused(
            Code.AUTHORITY_UNAVAILABLE, "the authority cannot write its database: see its log there"
        ) from None
