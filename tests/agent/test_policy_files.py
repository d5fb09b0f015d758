"""A directory is read as it was at one moment, whatever happens to it meanwhile."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from interceptor.agent import parsing, policy_files
from interceptor.agent.policy_files import PolicyFiles
from interceptor.errors import PolicyError
from interceptor.policy.mesh_names import MeshNames
from tests.policy.world import authorization

ROOT = MeshNames()


@pytest.fixture
def files(tmp_path: Path) -> PolicyFiles:
    return PolicyFiles(tmp_path, ROOT)


def names(files: PolicyFiles) -> list[str]:
    return [str(document.head.name) for document in files.load().documents]


def test_directory_that_is_not_there_is_empty(tmp_path: Path) -> None:
    files = PolicyFiles(tmp_path / "none", ROOT)
    assert files.signature() is None
    assert files.load().documents == ()


def test_files_are_read_in_the_order_of_their_names_and_others_left_alone(
    files: PolicyFiles, tmp_path: Path
) -> None:
    (tmp_path / "b.yml").write_text(authorization("first"))
    (tmp_path / "a.yaml").write_text(authorization("second") + authorization("third"))
    (tmp_path / ".hidden.yaml").write_text("[")
    (tmp_path / "notes.txt").write_text("[")
    loaded = files.load()
    assert [d.head.name.name for d in loaded.documents] == ["second", "third", "first"]
    assert loaded.owners == f"uid {os.getuid()}"
    assert str(loaded.documents[0].head.place) == f"{tmp_path}/a.yaml:2"


def test_garbage_is_collected_again_and_many_objects_are_kept_out_of_it(
    files: PolicyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(authorization("a"))
    frozen = gc.get_freeze_count()
    files.load()
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, frozen)
    monkeypatch.setattr(policy_files, "MANY_OBJECTS", -1)
    files.load()
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
    gc.unfreeze()


def test_change_shows_in_the_signature(files: PolicyFiles, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("")
    before = files.signature()
    path.write_text(authorization("a"))
    assert files.signature() != before


def test_file_that_did_not_change_is_not_parsed_again(
    files: PolicyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(authorization("a"))
    (tmp_path / "b.yaml").write_text(authorization("b"))
    files.load()
    parsed = []
    monkeypatch.setattr(parsing, "parse_part", lambda name, *_: parsed.append(name) or ())
    (tmp_path / "b.yaml").write_text(authorization("c"))
    files.load()
    assert parsed == [f"{tmp_path}/b.yaml"]


def test_document_that_only_moved_is_not_parsed_again_and_has_its_new_place(
    files: PolicyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text("# a\n" + authorization("a") + authorization("b"))
    files.load()
    monkeypatch.setattr(parsing, "parse_part", lambda *_: pytest.fail("it was parsed again"))
    (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
    (tmp_path / "b.yaml").write_text("# a\n" + authorization("b") + authorization("a"))
    moved = {d.head.name.name: str(d.head.place) for d in files.load().documents}
    assert moved == {"b": f"{tmp_path}/b.yaml:3", "a": f"{tmp_path}/b.yaml:9"}


def test_bad_file_that_did_not_change_is_not_parsed_again(
    files: PolicyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text("kind: Nonsense\n")
    problems = []
    for _ in range(2):
        with pytest.raises(PolicyError) as caught:
            files.load()
        problems.append(caught.value.problems)
        monkeypatch.setattr(parsing, "parse_part", lambda *_: pytest.fail("it was parsed again"))
    assert problems[0] == problems[1]
    monkeypatch.undo()
    (tmp_path / "b.yaml").write_text("# one more line\nkind: Nonsense\n")
    (tmp_path / "a.yaml").rename(tmp_path / "c.yaml")
    with pytest.raises(PolicyError) as caught:
        files.load()
    assert [problem.split(":")[:2] for problem in caught.value.problems] == [
        [f"{tmp_path}/b.yaml", "2"],
        [f"{tmp_path}/c.yaml", "1"],
    ]


def test_what_is_not_read_is_known_by_its_name(files: PolicyFiles, tmp_path: Path) -> None:
    for name in ("DENY.YAML", "deny.yaml.txt", "deny.json", ".hidden", "a.yml"):
        (tmp_path / name).touch()
    (tmp_path / "shop").mkdir()
    files.load()
    assert files.not_read == ("DENY.YAML", "deny.json", "deny.yaml.txt", "shop")


def test_directory_that_is_called_like_a_file_costs_no_descriptor(files: PolicyFiles, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(PolicyError, match="Is a directory"):
            files.load()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_text_given_takes_the_place_of_the_files(files: PolicyFiles, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("[")
    assert [d.head.name.name for d in files.load({"a.yaml": authorization("new")}).documents] == ["new"]


def test_all_problems_are_told_with_the_path(files: PolicyFiles, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("[")
    (tmp_path / "b.yaml").write_text("x: 1")
    with pytest.raises(PolicyError) as caught:
        files.load()
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        f"{tmp_path}/a.yaml",
        f"{tmp_path}/b.yaml",
    ]


def test_name_twice_in_two_files_is_refused(files: PolicyFiles, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(authorization("a"))
    (tmp_path / "b.yaml").write_text(authorization("a"))
    with pytest.raises(
        PolicyError, match=r"b.yaml:2:1: metadata.name: AuthorizationPolicy shop/a is there twice"
    ):
        files.load()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"a: \xff"), "is not UTF-8, at byte 3"),
        (lambda path: path.mkdir(), "cannot be read, Is a directory"),
        (lambda path: os.mkfifo(path), "is not a file"),
        (lambda path: (path.touch(), path.chmod(0o666)), "everybody may change it"),
        (lambda path: path.parent.chmod(0o777), "everybody may change it"),
        (lambda path: (path.touch(), os.chown(path, -1, 54321), path.chmod(0o664)), "group 54321 may change it"),
        (lambda path: (os.chown(path.parent, -1, 54321), path.parent.chmod(0o775)), "group 54321 may change it"),
        (lambda path: (path.touch(), os.chown(path, 12345, -1)), "belongs to uid 12345, who may change it"),
        (lambda path: path.symlink_to(path), "a.yaml: cannot be read: Too many levels of symbolic links"),
        (lambda path: path.symlink_to("nowhere"), "a.yaml: is a link to a file that is not there"),
        (lambda path: os.chown(path.parent, 12345, -1), "belongs to uid 12345, who may change it"),
    ],
)  # fmt: skip
def test_file_that_is_none_is_refused(files: PolicyFiles, tmp_path: Path, make: object, message: str) -> None:
    make(tmp_path / "a.yaml")  # type: ignore[operator]
    with pytest.raises(PolicyError) as caught:
        files.load()
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_link_to_nothing_does_not_hide_the_other_files(files: PolicyFiles, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(authorization("a"))
    (tmp_path / "b.yaml").symlink_to("nowhere")
    for ask in (files.signature, files.load):
        with pytest.raises(PolicyError, match=r"b\.yaml: is a link to a file that is not there"):
            ask()


def test_file_that_goes_away_between_listing_and_looking_is_no_error(
    files: PolicyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(authorization("a"))
    (tmp_path / "b.yaml").write_text(authorization("b"))
    sign = policy_files._sign

    def deletes(name: str, status: os.stat_result) -> tuple[str, int, int, int, int]:
        if (tmp_path / "b.yaml").exists():
            (tmp_path / "b.yaml").unlink()
            raise FileNotFoundError
        return sign(name, status)

    monkeypatch.setattr(policy_files, "_sign", deletes)
    signature = files.signature()
    assert signature is not None
    assert [entry[0] for entry in signature] == ["a.yaml"]


def test_set_is_swapped_as_kubernetes_swaps_a_config_map(files: PolicyFiles, tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}/a.yaml").write_text(authorization(f"a{version}"))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    before = files.signature()
    assert names(files) == ["AuthorizationPolicy shop/a1"]
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert files.signature() != before
    assert names(files) == ["AuthorizationPolicy shop/a2"]


def test_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(PolicyError, match="cannot be read: Not a directory"):
        PolicyFiles(tmp_path / "x", ROOT).load()


def test_file_deleted_while_it_is_read_is_read_around(
    files: PolicyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(authorization("a"))
    (tmp_path / "b.yaml").write_text(authorization("b"))
    read = files._read_file

    def deletes(name: str) -> str:
        (tmp_path / "b.yaml").unlink(missing_ok=True)
        return read(name)

    monkeypatch.setattr(files, "_read_file", deletes)
    assert names(files) == ["AuthorizationPolicy shop/a"]


def test_file_that_changes_all_the_time_is_refused(
    files: PolicyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(authorization("a"))
    read = files._read_file

    def changes(name: str) -> str:
        with (tmp_path / "a.yaml").open("a") as file:
            file.write("\n")
        return read(name)

    monkeypatch.setattr(files, "_read_file", changes)
    with pytest.raises(PolicyError, match="change all the time"):
        files.load()


@pytest.mark.parametrize(
    ("limit", "message"),
    [("MAX_FILES", "there are 2 policy files, at most 1"), ("MAX_BYTES", "have 2 bytes, at most 1")],
)
def test_directory_that_is_too_large_is_refused(
    files: PolicyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, message: str
) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("\n")
    monkeypatch.setattr(policy_files, limit, 1)
    with pytest.raises(PolicyError, match=message):
        files.load()
