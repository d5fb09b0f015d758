"""The image's build file says the same as what it is made from; that it builds is for `make image`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTAINERFILE = (ROOT / "interceptor/kubernetes/Containerfile").read_text()
NOT_IN_THE_IMAGE = {"curl"}  # of the demo


def test_image_installs_the_debian_packages_of_make_install() -> None:
    (wanted,) = re.findall(r"^packages=\((.*)\)$", (ROOT / ".ci/install").read_text(), re.MULTILINE)
    (installed,) = re.findall(r"--no-install-recommends (.*?) \\", CONTAINERFILE)
    assert set(installed.split()) == set(wanted.split()) - NOT_IN_THE_IMAGE


def test_image_fetches_no_python_package_and_adds_no_secret() -> None:
    assert "pip install --no-index --find-links /wheels" in CONTAINERFILE
    assert re.findall(r"^(?:COPY|ADD) .*$", CONTAINERFILE, re.MULTILINE) == [
        "COPY --from=headers /extracted/usr/src /usr/src",
        "COPY . /wheels",
    ]


def test_script_without_a_tool_to_build_with_says_what_to_install(tmp_path: Path) -> None:
    for name in ("bash", "sed", "git", "dirname"):
        (tmp_path / name).symlink_to(Path("/usr/bin") / name)
    done = subprocess.run(
        [ROOT / ".ci/image"],
        env={"PATH": str(tmp_path), "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "image: neither buildah nor podman is there: apt-get install buildah\n"
