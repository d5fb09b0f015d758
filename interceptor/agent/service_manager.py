"""Tell systemd, when it started us, that the agent is ready or is about to end: the datagrams of sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)

READY, STOPPING = "READY=1", "STOPPING=1"


def tell_service_manager(state: str) -> None:
    """Send `state` to the socket named in NOTIFY_SOCKET; nobody is told when there is none.

    It never waits and never fails: whoever started us may be gone, and the agent works as well without.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return  # not started by systemd, or a kind of address that we do not know
    if address.startswith("@"):
        address = f"\0{address[1:]}"  # an abstract socket, unix(7)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(state.encode(), address)
    except OSError as error:
        log.warning("the service manager cannot be told %s (%s)", state, error.strerror)
