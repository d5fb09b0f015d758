"""What kernels before Linux 5.17 run: what waits, and is served or handed over (see `test_hold`)."""

from __future__ import annotations

from tests.kernel.test_hold import (  # noqa: F401
    pod,
    pods,
    pytestmark,
    test_connection_of_an_unknown_namespace_waits_and_is_served_when_it_is_enrolled,
    test_connection_that_was_held_is_handed_over_when_its_namespace_is_outside,
    test_what_was_held_before_the_agent_died_is_served_by_the_next_one,
)

IS_OLDER = True
