"""Only plain YAML gets through, and everything else is refused with its line."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interceptor.config.document import MAX_CHARACTERS, MAX_DEPTH, Items, Scalar, read_document
from interceptor.errors import ConfigError


def text_at(line: int, text: str) -> Scalar:
    return Scalar(text, is_text=True, is_null=False, line=line)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n"])
def test_document_without_content_is_empty(text: str) -> None:
    assert read_document(text, "config.yaml") == {}


def test_document_values_have_path_and_line() -> None:
    assert read_document("a: x\nb:\n  c:\n    - y\n    - 'z'\n  d: 7\n  e:\nf: {}\n", "config.yaml") == {
        ("a",): text_at(1, "x"),
        ("b", "c"): Items((text_at(4, "y"), text_at(5, "z")), 3),
        ("b", "d"): Scalar("7", is_text=False, is_null=False, line=6),
        ("b", "e"): Scalar("", is_text=False, is_null=True, line=7),
        ("f",): Items((), 8),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "config.yaml:1: expected 'key: value' lines, not a list"),
        ("\nhello\n", "config.yaml:2: expected 'key: value' lines, not the value 'hello'"),
        ("a: 1\na: 2\n", "config.yaml:2: key 'a' is there twice, first in line 1"),
        ("a:\n  b: 1\n  c: 1\n  b: 2\n", "config.yaml:4: key 'a.b' is there twice, first in line 2"),
        ("a: 1\n7: 2\n", "config.yaml:2: a key must be plain text, not the value '7'"),
        ("a:\n  <<: {b: 1}\n", "config.yaml:2: a key must be plain text, not the value '<<'"),
        ("[a]: 1\n", "config.yaml:1: a key must be plain text, not a list"),
        ("{a: 1}: 1\n", "config.yaml:1: a key must be plain text, not a mapping"),
        ("a:\n  - [b]\n", "config.yaml:2: a list may only hold single values, not a list"),
        ("a:\n  - b: 1\n", "config.yaml:2: a list may only hold single values, not a mapping"),
        (
            "a: &x 1\n",
            "config.yaml:1: cannot be read, anchors and aliases are not allowed, write the value out",
        ),
        (
            "a: 1\nb: *x\n",
            "config.yaml:2: cannot be read, anchors and aliases are not allowed, write the value out",
        ),
        (
            "a: !!str 1\n",
            "config.yaml:1: cannot be read, tags are not allowed, remove the word that begins with '!'",
        ),
        (
            "a: !!python/object:os.x {b: 1}\n",
            "config.yaml:1: cannot be read, tags are not allowed, remove the word that begins with '!'",
        ),
        ("a: 1\n---\nb: 2\n", "config.yaml:2: cannot be read, but found another document"),
        ("a: [1\nb: 2\n", "config.yaml:2: cannot be read, expected ',' or ']', but got ':'"),
        ("a:\n\t- 1\n", "config.yaml:2: cannot be read, found character '\\t' that cannot start any token"),
        ("a: '\0'\n", "config.yaml:1: cannot be read, "),
        ('a: "\\UFFFFFFFF"\n', "config.yaml: cannot be read, "),
        ("a: {" * MAX_DEPTH, f"config.yaml:1: cannot be read, it is nested deeper than {MAX_DEPTH} levels"),
        ("[" * 100_000, f"config.yaml:1: cannot be read, it is nested deeper than {MAX_DEPTH} levels"),
        ("#" * (MAX_CHARACTERS + 1), "config.yaml: has 1048577 characters, at most 1048576 are allowed"),
    ],
)
def test_document_other_text_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_document(text, "config.yaml")
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


@given(st.one_of(st.text(), st.text(alphabet="ab:{}[],&*!|>'\"%#- \n\t\\Uu0\ufeff")))
@example("%YAML 1." + "9" * 5000 + "\n---\na: 1\n")
@example("%TAG ! tag:x,2000:\n---\na: 1\n")
def test_document_any_text_is_a_document_or_config_error(text: str) -> None:
    message = "one line"
    try:
        read_document(text, "config.yaml")
    except ConfigError as refused:
        message = str(refused)
    assert len(message.splitlines()) == 1
