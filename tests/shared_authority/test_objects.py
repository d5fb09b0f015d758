"""Secrets and ConfigMaps as they are sent and read."""

import json
from base64 import b64encode

import pytest

from interceptor.cluster.head import ObjectKey
from interceptor.errors import InvalidInput
from interceptor.shared_authority.objects import MAX_CONTENT_BYTES, Holder, body, parse_stored

KEY = ObjectKey("interceptor", "authority")


def answered(holder, content, **metadata):
    sent = json.loads(body(holder, KEY, content, None))
    return json.dumps({**sent, "metadata": {**sent["metadata"], "resourceVersion": "7", **metadata}}).encode()


@pytest.mark.parametrize(
    ("holder", "shown"), [(Holder.SECRET, b64encode(b"one\n").decode()), (Holder.CONFIG_MAP, "one\n")]
)
def test_object_is_read_as_it_was_written(holder, shown):
    sent = json.loads(body(holder, KEY, {"a": b"one\n"}, None))
    assert (sent["kind"], sent["data"]) == (holder.value, {"a": shown})
    assert "resourceVersion" not in sent["metadata"]
    stored = parse_stored(holder, answered(holder, {"a": b"one\n"}))
    assert (stored.version, stored.content) == ("7", {"a": b"one\n"})


def test_object_that_is_replaced_keeps_what_others_put_on_it():
    stored = parse_stored(
        Holder.SECRET, answered(Holder.SECRET, {}, labels={"team": "a"}, annotations={"backup": "daily"})
    )
    metadata = json.loads(body(Holder.SECRET, KEY, {"a": b"2"}, stored))["metadata"]
    assert metadata["resourceVersion"] == "7"
    assert metadata["labels"]["team"] == "a"
    assert metadata["labels"]["app.kubernetes.io/name"] == "interceptor"
    assert metadata["annotations"] == {"backup": "daily"}


def test_paths_are_those_of_the_api():
    assert Holder.SECRET.path(KEY) == "/api/v1/namespaces/interceptor/secrets/authority"
    assert Holder.CONFIG_MAP.collection("x") == "/api/v1/namespaces/x/configmaps"


def test_content_that_no_secret_can_hold_is_refused():
    with pytest.raises(InvalidInput, match="at most 1048576 can be kept"):
        body(Holder.SECRET, KEY, {"a": bytes(MAX_CONTENT_BYTES)}, None)


def test_secret_that_is_not_in_base64_is_refused_and_not_shown():
    value = {"metadata": {"resourceVersion": "7"}, "data": {"root.key": "s3cret*"}}
    with pytest.raises(InvalidInput, match=r"root\.key is not in base64") as caught:
        parse_stored(Holder.SECRET, json.dumps(value).encode())
    assert "s3cret" not in str(caught.value)


def test_content_is_in_no_repr():
    shown = repr(parse_stored(Holder.SECRET, answered(Holder.SECRET, {"a": b"s3cret"})))
    assert "s3cret" not in shown
