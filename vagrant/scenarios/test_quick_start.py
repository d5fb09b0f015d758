"""README's quick start and the integration tests, on a machine that was made a minute ago."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from vagrant.scenarios.box import Script

# Feature, for the table of `make vagrant-matrix`, and the demo's line that says it was seen.
DEMONSTRATED = {
    "mutual TLS over IPv4": "curl got the file over IPv4",
    "mutual TLS over IPv6": "curl got the file over IPv6",
    "client's address preserved": "the web server's own log has the client's real addresses",
    "no plaintext on the link": "0 packets with the plaintext",
    "identities proven": "each record has both identities, proven by certificate",
    "plaintext refused": "it is refused",
    "nothing left by down": "nothing is left",
}
# What a kernel does not have, and the programs make up for: as the probe calls it, as the doctor does.
MISSING = {
    "bookworm-5.10": {
        "link told to sk_lookup": "ingress_ifindex in sk_lookup programs",
        "netns cookie told to sock_ops": "bpf_get_netns_cookie in sock_ops programs",
        "SO_NETNS_COOKIE": "SO_NETNS_COOKIE",
    }
}

# Where a kernel does not have it, nobody can have such a socket, and there is nothing to refuse.
ABSENT = "Multipath TCP, to be refused"


def probed(quick_start: Script, logs: Path) -> dict[str, str]:
    """What the probe has found, hook by hook."""
    output = quick_start.wait("hooks").check()
    [line] = [line for line in output.splitlines() if line.startswith("HOOKS ")]
    results: dict[str, str] = json.loads(line.removeprefix("HOOKS "))
    (logs / "hooks.json").write_text(json.dumps(results, indent=1))
    return results


@pytest.mark.smoke
def test_quick_start_shows_what_the_readme_says(quick_start: Script, logs: Path) -> None:
    answer = quick_start.wait("demo")
    seen = {feature: "ok" if line in answer.output else "failed" for feature, line in DEMONSTRATED.items()}
    (logs / "features.json").write_text(json.dumps(seen, indent=1))
    assert "Every line with 'ok' was checked." in answer.check()
    assert "failed" not in seen.values()


@pytest.mark.smoke
def test_doctor_is_content_and_says_what_the_kernel_does_not_have(quick_start: Script, box_name: str) -> None:
    text = " ".join(quick_start.wait("doctor").check().split())
    assert "interceptor can run here" in text
    said = text.partition("made up for: ")[2].partition(" ok ")[0]
    found = {name for name in MISSING["bookworm-5.10"].values() if f"{name}, " in said}
    assert found == set(MISSING.get(box_name, {}).values())


@pytest.mark.smoke
def test_every_hook_can_be_attached(quick_start: Script, logs: Path, box_name: str) -> None:
    results = probed(quick_start, logs)
    missing = {name for name, result in results.items() if result == "not available"}
    assert missing - {ABSENT} == set(MISSING.get(box_name, {}))
    assert all(is_fine(result) for name, result in results.items() if name not in {*missing, "kernel"})


def is_fine(result: str) -> bool:
    return result in ("ok", "not built")


def test_integration_tests_pass(quick_start: Script) -> None:
    quick_start.wait("dependencies").check()
    output = quick_start.wait("integration").check()
    assert " passed" in output
    assert "skipped" not in output
