"""What several documents, and PyYAML without libyaml, add to what tests/config/test_document.py shows."""

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interceptor.strict_yaml import (
    MappingNode,
    Node,
    ScalarNode,
    StrictYamlError,
    kind_of,
    read_documents,
    split_documents,
)


@pytest.fixture(params=[True, False], ids=["libyaml", "python"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml, "__with_libyaml__", request.param and yaml.__with_libyaml__)


@pytest.mark.usefixtures("_parser")
def test_documents_have_places_and_may_have_number_keys() -> None:
    first, second = read_documents("---\na: [x, 'y']\n---\n# nothing\n---\n  8080: {b: 1}\n", max_depth=9)
    assert isinstance(first, MappingNode)
    assert isinstance(second, MappingNode)
    key, node = second.entries["8080"]
    assert (key.line, key.column, kind_of(node)) == (6, 3, "a mapping")
    assert first.entries["a"][1].line == 2
    assert second.entries["8080"][1] == MappingNode(
        {"b": (ScalarNode("b", True, False, 6, 10), ScalarNode("1", False, False, 6, 13))}, 6, 9
    )


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\n---\nb: &x 1\n", 3, "anchors and aliases are not allowed"),
        ("a: 1\nb: *x\n", 2, "anchors and aliases are not allowed"),
        ("a: ! {b: 1}\n", 1, "tags are not allowed"),
        ("a:\n  1.5: 2\n", 2, "a key must be plain text, not the value '1.5'"),
        ("a:\n  <<: {b: 1}\n", 2, "a key must be plain text, not the value '<<'"),
        ("a: {80: 1, '80': 2}\n", 1, "key 'a.80' is there twice, first in line 1"),
        ("a: 1\nb: [1\n", 3, "cannot be read, "),
        ("a:\n\t- 1\n", 2, "cannot be read, found character"),
        ("[" * 1000, 1, "nested deeper than 9 levels"),
        ("a: b\n\nc: x\x00\n", 3, "cannot be read, '\\x00' must not be in YAML, remove it"),
        ("a: b\n# \x07\n", 2, "cannot be read, '\\x07' must not be in YAML, remove it"),
        ("a:\n\t- 1\n", 2, "; it is a tab, use spaces"),
    ],
)
def test_documents_other_text_is_refused_with_its_line(text: str, line: int | None, problem: str) -> None:
    with pytest.raises(StrictYamlError) as caught:
        tuple(read_documents(text, max_depth=9))
    assert problem in caught.value.problem
    assert caught.value.line == line


def whole(text: str) -> list[Node] | None:
    """The documents of a text, None when it is not one that can be read."""
    try:
        return list(read_documents(text, max_depth=9))
    except StrictYamlError:
        return None


def cut(text: str) -> list[Node] | None:
    """The same, by parts."""
    try:
        return [
            node
            for part in split_documents(text)
            for node in read_documents(part.text, max_depth=9, first_line=part.line)
        ]
    except StrictYamlError:
        return None


TEXTS = st.lists(
    st.sampled_from(
        [
            *(
                "---\n",
                "--- ",
                "---\t",
                "\n---\n",
                "---x",
                " ---\n",
                "...\n",
                "a: b\n",
                "- c\n",
                "[",
                "]",
                "{",
                "}",
                ": ",
            ),
            *(
                "'",
                '"',
                "|\n",
                ">-\n",
                "  x\n",
                "# c\n",
                "\n",
                "\r\n",
                "\r",
                "\x85",
                "\u2028",
                "\ufeff",
                "%YAML 1.1\n",
            ),
            *("\t", "\\", "&a ", "*a", "!t ", "? k\n", "7", "key: |+\n", "\n\n", ","),
        ]
    ),
    max_size=25,
).map("".join)


@settings(max_examples=3000, deadline=None)
@given(TEXTS)
@example("a: 1\n---\nb: 2\n--- {c: 3}\n---")
@example("a: |+\n  x\n\n---\nb: 2\n")
@example("a: 'x\n---\ny'\n")
@example("%YAML 1.1\n---\na: 1\n---\nb: 1\n")
def test_parts_say_together_what_the_text_says(text: str) -> None:
    assert cut(text) == whole(text)
    assert "".join(part.text for part in split_documents(text)) == text
