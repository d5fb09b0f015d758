"""SPIFFE IDs: what is one, what is not, and that nothing else can come out of the parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.errors import InvalidInput
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain, validate_name

labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
subdomains = st.lists(labels, min_size=1, max_size=3).map(".".join)
domains = st.lists(st.from_regex(r"[-_a-z0-9]{1,40}", fullmatch=True), min_size=1, max_size=4).map(".".join)
ids = st.builds(SpiffeId, st.builds(TrustDomain, domains), labels, subdomains)

# Characters that matter to the parser, so that random text gets past its first lines.
nearly = st.lists(
    st.sampled_from(
        [
            "spiffe:",
            "//",
            "/",
            "ns",
            "sa",
            "a",
            "cluster.local",
            ".",
            "..",
            ":",
            "@",
            "?",
            "%2f",
            "\x00",
            "A",
            "é",
        ]
    )
).map("".join)


def outcome(text):
    try:
        return SpiffeId.parse(text)
    except InvalidInput as error:
        return error


@given(ids)
def test_spiffe_id_printed_and_parsed_is_the_same(spiffe_id):
    assert SpiffeId.parse(str(spiffe_id)) == spiffe_id
    assert str(spiffe_id) == f"spiffe://{spiffe_id.principal}"


@given(st.one_of(st.text(), nearly, nearly.map("spiffe://".__add__)))
def test_spiffe_id_from_any_text_is_a_value_or_invalid_input(text):
    result = outcome(text)
    assert str(result).isprintable()
    assert isinstance(result, InvalidInput) or str(result) == text


@given(ids, st.data())
def test_spiffe_id_with_one_character_changed_is_another_value_or_invalid_input(spiffe_id, data):
    uri = str(spiffe_id)
    at = data.draw(st.integers(0, len(uri) - 1))
    changed = uri[:at] + data.draw(st.characters(exclude_characters=uri[at])) + uri[at + 1 :]
    result = outcome(changed)
    assert isinstance(result, SpiffeId | InvalidInput)
    assert result != spiffe_id


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("", "does not begin with spiffe://"),
        ("https://td/ns/a/sa/b", "does not begin with spiffe://"),
        ("SPIFFE://td/ns/a/sa/b", "does not begin with spiffe://"),
        ("spiffe:/td/ns/a/sa/b", "does not begin with spiffe://"),
        ("spiffe://td/ns/a/sa/b\x00", "control character"),
        ("spiffe://td\x00.evil/ns/a/sa/b", "control character"),
        ("spiffe://td/ns/a/sa/b\n", "control character"),
        ("spiffe://td/ns/a b/sa/b", "a space"),
        ("spiffe://td/ns/ä/sa/b", "non-ASCII"),
        ("spiffe://td/ns/\ud800/sa/b", "non-ASCII"),
        ("spiffe:///ns/a/sa/b", "empty"),
        ("spiffe://td/ns//sa/b", "empty"),
        ("spiffe://td/ns/a/sa/", "empty"),
        ("spiffe://td/ns/a/sa/b/", "empty"),
        ("spiffe://td//ns/a/sa/b", "empty"),
        ("spiffe://td/ns/./sa/b", "'.' or '..' part"),
        ("spiffe://td/ns/a/../ns/b/sa/b", "'.' or '..' part"),
        ("spiffe://TD/ns/a/sa/b", "trust domain 'TD' is not valid"),
        ("spiffe://.td/ns/a/sa/b", "trust domain '.td' is not valid"),
        ("spiffe://td:443/ns/a/sa/b", "a port"),
        ("spiffe://[fd00::1]/ns/a/sa/b", "a port"),
        ("spiffe://me@td/ns/a/sa/b", "user information"),
        ("spiffe://td/ns/a/sa/b?x=1", "a query"),
        ("spiffe://td/ns/a/sa/b#x", "a fragment"),
        ("spiffe://td/ns/%61/sa/b", "percent-encoding"),
        ("spiffe://td", "names no workload"),
        ("spiffe://td/ns/a", "names no workload"),
        ("spiffe://td/sa/b/ns/a", "names no workload"),
        ("spiffe://td/ns/a/sa/b/c", "names no workload"),
        ("spiffe://td/NS/a/sa/b", "names no workload"),
        ("spiffe://td/ns/A/sa/b", "namespace 'A' is not a valid name"),
        ("spiffe://td/ns/a.b/sa/b", "namespace 'a.b' is not a valid name"),
        ("spiffe://td/ns/a/sa/-b", "service account '-b' is not a valid name"),
        ("spiffe://td/ns/a/sa/" + "b" * 254, "254 characters"),
        ("spiffe://" + "t" * 256 + "/ns/a/sa/b", "256 characters"),
        ("spiffe://td/ns/a/sa/" + "b" * 2048, "longer than 2048 bytes"),
    ],
)
def test_spiffe_id_that_breaks_a_rule_is_refused_with_that_rule(uri, why):
    with pytest.raises(InvalidInput) as caught:
        SpiffeId.parse(uri)
    message = str(caught.value)
    assert why in message
    assert message.isprintable()
    assert len(message) < 300


def test_spiffe_id_built_from_bad_parts_is_refused():
    with pytest.raises(InvalidInput, match="namespace is empty"):
        SpiffeId(TrustDomain("td"), "", "web")


@pytest.mark.parametrize("text", ["cluster.local", "td", "a_b-c.0", "10.0.0.1", "t" * 255])
def test_trust_domain_valid_name_round_trips(text):
    assert str(TrustDomain.parse(text)) == text
    assert TrustDomain.parse(text).uri == f"spiffe://{text}"


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "a.", "A", "a b", "a\n", "a/b", "spiffe://a", "a" * 256, "ä"]
)
def test_trust_domain_invalid_name_is_refused(text):
    with pytest.raises(InvalidInput, match="trust domain"):
        TrustDomain.parse(text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("namespace", "a"),
        ("namespace", "0-0"),
        ("workload name", "w" * 63),
        ("service account", "a.b-c.0"),
        ("service account", "s" * 253),
    ],
)
def test_name_that_kubernetes_allows_is_returned(kind, value):
    assert validate_name(kind, value) == value


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("namespace", ""),
        ("namespace", "a.b"),
        ("namespace", "w" * 64),
        ("workload name", "web\n"),
        ("workload name", "-web"),
        ("workload name", "../etc"),
        ("service account", "a..b"),
        ("service account", "web_1"),
        ("service account", "WEB"),
        ("service account", "s" * 254),
    ],
)
def test_name_that_kubernetes_refuses_is_refused(kind, value):
    with pytest.raises(InvalidInput, match=f"^{kind} ") as caught:
        validate_name(kind, value)
    assert str(caught.value).isprintable()
