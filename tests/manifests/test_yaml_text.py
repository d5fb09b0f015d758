"""What is printed is read back by a parser as what was meant."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from interceptor.manifests.yaml_text import WIDTH, Commented, document, plain

TEXTS = st.text(st.characters(max_codepoint=0xFFFD, exclude_categories=("Cs", "Cc")), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | TEXTS
KEYS = st.text("abcXYZ019./-_ :#", min_size=1, max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_document_is_read_back_as_it_was(value):
    # A list in a list is in none of our objects.
    if not _has_list_in_list(value):
        assert yaml.safe_load(document(value)) == (value or None)


def _has_list_in_list(value):
    if isinstance(value, dict):
        return any(map(_has_list_in_list, value.values()))
    return isinstance(value, list) and any(
        isinstance(each, list) or _has_list_in_list(each) for each in value
    )


@pytest.mark.parametrize(
    "text", ["yes", "on", "1.0", "0x1f", "1e3", "null", "~", "2026-01-01", "12:30:45", "a: b", "-x", ""]
)
def test_text_that_yaml_takes_for_something_else_is_in_quotes(text):
    shown = document({"key": text})
    assert yaml.safe_load(shown) == {"key": text}
    assert shown == f'---\nkey: "{text}"\n'


def test_comments_stand_above_what_they_explain():
    value = {
        "a": Commented("why a", 1),
        "list": [Commented("why b", {"b": [], "c": {}}), Commented("why d", "d")],
    }
    assert document(value) == (
        "---\n# why a\na: 1\nlist:\n  # why b\n  - b: []\n    c: {}\n  # why d\n  - d\n"
    )
    assert plain(value) == {"a": 1, "list": [{"b": [], "c": {}}, "d"]}


def test_long_comment_is_broken_into_lines():
    shown = document({"a": Commented("word " * 60, 1)})
    assert all(len(line) <= WIDTH for line in shown.splitlines())
    assert shown.count("word") == 60


def test_text_of_several_lines_stays_readable():
    text = "mode: STRICT\n\nmesh:\n  cidrs: []\n"
    assert document({"data": {"config.yaml": text}}) == (
        "---\ndata:\n  config.yaml: |\n    mode: STRICT\n\n    mesh:\n      cidrs: []\n"
    )
    assert yaml.safe_load(document({"a": text})) == {"a": text}
