"""Who we are at the API server, and that a token goes nowhere in plaintext."""

from pathlib import Path

import pytest

from interceptor.errors import ClusterError, UsageError
from interceptor.kubernetes.access import ApiAccess, as_said, in_pod


def test_access_in_a_pod_is_what_the_pod_is_given(tmp_path: Path) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "fd96::1", "KUBERNETES_SERVICE_PORT": "443"}
    expected = ApiAccess("https://[fd96::1]:443", tmp_path / "token", tmp_path / "ca.crt")
    assert in_pod(environment, tmp_path) == expected
    found = in_pod({**environment, "KUBERNETES_SERVICE_HOST": "10.96.0.1"}, tmp_path)
    assert found is not None
    assert found.server == "https://10.96.0.1:443"
    assert in_pod({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}) is None


def test_access_as_said_is_verified_or_on_this_machine() -> None:
    ca, token = Path("/ca.crt"), Path("/token")
    assert as_said("https://10.0.0.1:6443/", token, ca) == ApiAccess("https://10.0.0.1:6443", token, ca)
    for server in ("http://127.0.0.1:8001", "http://localhost:8001", "http://[::1]:8001"):
        assert as_said(server, None, None) == ApiAccess(server, None, None)


@pytest.mark.parametrize(
    ("server", "token", "message"),
    [
        ("http://10.0.0.1:8001", None, "would be asked in plaintext, use https"),
        ("http://example.com", None, "would be asked in plaintext, use https"),
        ("http://127.0.0.1:8001", Path("/token"), "a token is never sent in plaintext"),
        (
            "https://10.0.0.1:6443",
            None,
            "cannot be verified without its CA's certificate, give it with --ca-file",
        ),
        (
            "10.0.0.1:6443",
            None,
            "is not the URL of an API server, expected one such as https://10.0.0.1:6443",
        ),
        ("https://", None, "is not the URL of an API server"),
        ("https://[::1", None, "is not the URL of an API server"),
        ("https://a:x", None, "is not the URL of an API server"),
        ("https://a/path", None, "is not the URL of an API server"),
        ("https://user@a", None, "is not the URL of an API server"),
    ],
)
def test_access_that_is_unsafe_or_unclear_is_refused(server: str, token: Path | None, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        as_said(server, token, None)
    assert message in str(caught.value)


def test_token_is_read_anew_each_time_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    access = ApiAccess("https://10.0.0.1", file, None)
    for token in ("first-secret", "second-secret"):
        file.write_text(f"{token}\n")
        assert access.authorization() == {"authorization": f"Bearer {token}"}
        assert token not in repr(access)


@pytest.mark.parametrize("content", [b"", b"\n", b"a b", b"a\r\nhost: x", b"\xc3\xa4", b"x" * 70_000])
def test_token_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ClusterError, match="holds no token: expected one line of printable characters"):
        ApiAccess("https://10.0.0.1", file, None).authorization()


def test_token_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"cannot read the token .*: No such file or directory"):
        ApiAccess("https://10.0.0.1", tmp_path / "token", None).authorization()
