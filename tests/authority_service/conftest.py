"""A service on loopback for every test, and OpenSSL's error queue empty after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.authority_service.running import Service
from tests.harness.openssl_errors import clean_error_queue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import trio

__all__ = ["clean_error_queue"]


@pytest.fixture
async def service(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Service]:
    service = Service(tmp_path)
    await service.start(nursery)
    yield service
    await service.stop()
    service.close()
