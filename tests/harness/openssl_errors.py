"""What must be true after every test that speaks TLS: OpenSSL's error queue is empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def clean_error_queue() -> Iterator[None]:
    """The queue belongs to the thread: what one connection leaves there, the next takes for its own failure."""
    assert SSL._lib.ERR_peek_error() == 0
    yield
    left = SSL._lib.ERR_peek_error()
    SSL._lib.ERR_clear_error()
    assert left == 0
