"""Where the API server is, and who we are there: as in a pod, or as it is said."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from interceptor.errors import ClusterError, UsageError, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

# kubernetes.io, "Accessing the Kubernetes API from a Pod"
SERVICE_ACCOUNT_DIRECTORY: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST_VARIABLE: Final = "KUBERNETES_SERVICE_HOST"
PORT_VARIABLE: Final = "KUBERNETES_SERVICE_PORT"
MAX_TOKEN_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """`server` is a URL without a path; without `token_file` we are nobody, as behind `kubectl proxy`."""

    server: str
    token_file: Path | None
    ca_file: Path | None

    def authorization(self) -> dict[str, str]:
        """The header that says who we are, read anew each time: the kubelet replaces tokens.  Raises ClusterError."""
        if self.token_file is None:
            return {}
        try:
            with self.token_file.open("rb") as file:
                token = file.read(MAX_TOKEN_BYTES + 1).strip()
        except OSError as error:
            raise ClusterError(f"cannot read the token {self.token_file}: {error.strerror}") from None
        if not token or len(token) > MAX_TOKEN_BYTES or not all(0x20 < byte < 0x7F for byte in token):
            raise ClusterError(f"{self.token_file} holds no token: expected one line of printable characters")
        return {"authorization": f"Bearer {token.decode('ascii')}"}


def in_pod(environment: Mapping[str, str], directory: Path = SERVICE_ACCOUNT_DIRECTORY) -> ApiAccess | None:
    """The access that every pod is given, None outside of one."""
    host, port = environment.get(HOST_VARIABLE), environment.get(PORT_VARIABLE)
    if not host or not port:
        return None
    shown = f"[{host}]" if ":" in host else host
    return ApiAccess(f"https://{shown}:{port}", directory / "token", directory / "ca.crt")


def as_said(server: str, token_file: Path | None, ca_file: Path | None) -> ApiAccess:
    """The access by these options; raises UsageError unless the server can be verified or is on this machine."""
    url = _split(server)
    if url.scheme == "http":
        if not _is_loopback(url.hostname or ""):
            raise UsageError(
                f"{quoted(server)} would be asked in plaintext, use https; http is for 'kubectl proxy' on this machine"
            )
        if token_file is not None:
            raise UsageError(f"a token is never sent in plaintext: leave it out for {quoted(server)}")
    elif ca_file is None:
        raise UsageError(
            f"{quoted(server)} cannot be verified without its CA's certificate, give it with --ca-file"
        )
    return ApiAccess(server.rstrip("/"), token_file, ca_file)


def _split(server: str) -> SplitResult:
    try:
        url = urlsplit(server)
        is_complete = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # no address between the brackets, no number after the colon
        url, is_complete = urlsplit(""), False
    if not is_complete or url.path.rstrip("/") or url.query or url.fragment or url.username is not None:
        raise UsageError(
            f"{quoted(server)} is not the URL of an API server, expected one such as https://10.0.0.1:6443"
        )
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
