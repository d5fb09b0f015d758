"""No private key gets out: not through text, not through pickle, copy or vars, not through an exception."""

import base64
import copy
import logging
import pickle
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from interceptor.errors import AuthorityError, InterceptorError, InvalidInput
from interceptor.identity.authority import Authority
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.identity.svid import X509Svid


def traces_of(key):
    """The forms in which a key could show up in a text."""
    number = key.private_numbers().private_value
    raw = number.to_bytes(32, "big")
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return [
        str(number), f"{number:x}", raw.hex(), raw.hex().upper(), raw.hex(":"), repr(raw)[2:-1],
        base64.b64encode(raw).decode()[:40], base64.b64encode(der).decode()[48:100], "PRIVATE KEY",
    ]  # fmt: skip


def texts_of(thing):
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s %r", (thing, thing), None)
    return [
        repr(thing),
        str(thing),
        f"{thing}",
        f"{thing!r}",
        "{}".format(thing),  # noqa: UP032 -- each way of formatting is meant
        record.getMessage(),
        repr([thing]),
    ]


@pytest.fixture(scope="session")
def svid(authority, web, now):
    key = create_private_key()
    chain = authority.sign(create_signing_request(web, key), web, timedelta(hours=1), now)
    return X509Svid(web, chain, key, now)


@pytest.fixture(scope="session")
def traces(authority, svid):
    keys = (authority.root_key, authority.intermediate_key, svid.private_key)
    return [trace for key in keys for trace in traces_of(key)]


def test_traces_would_be_found_if_a_key_leaked(authority, traces):
    # Otherwise the tests below prove nothing.
    pem = authority.root_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    assert any(trace in pem.replace("\n", "") for trace in traces[:8])
    assert str(authority.root_key.private_numbers().private_value) in traces


def test_objects_shown_in_any_way_hold_no_key(authority, svid, traces):
    for thing in (authority, svid, authority.trust_bundle, authority.chain, svid.spiffe_id):
        for text in texts_of(thing):
            assert not any(trace in text for trace in traces)


@pytest.mark.parametrize(
    "taken",
    [
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        vars,
        lambda thing: pickle.dumps([thing], protocol=0),
        lambda thing: thing.__dict__,
    ],
    ids=["pickle", "copy", "deepcopy", "vars", "pickle in a list", "dict"],
)
def test_holders_of_keys_cannot_be_copied_or_taken_apart(authority, svid, traces, taken):
    for thing in (authority, svid):
        with pytest.raises((TypeError, AttributeError)) as caught:
            taken(thing)
        assert not any(trace in str(caught.value) for trace in traces)


def failures(authority, svid, now):
    """Everything that can be refused while keys are at hand."""
    web, hour = svid.spiffe_id, timedelta(hours=1)
    request = create_signing_request(web, svid.private_key)
    admin = SpiffeId(web.trust_domain, "default", "admin")
    other = Authority.create(web.trust_domain, now)
    yield AuthorityError, lambda: authority.sign(request, admin, hour, now)
    yield AuthorityError, lambda: authority.sign(request, web, 48 * hour, now)
    yield AuthorityError, lambda: authority.sign(request, web, hour, now + timedelta(days=9999))
    yield AuthorityError, lambda: authority.with_renewed_intermediate(now + timedelta(days=9999))
    yield (
        AuthorityError,
        lambda: Authority(authority.trust_bundle, authority.intermediate, other.root_key, None),
    )
    yield (
        AuthorityError,
        lambda: Authority(
            other.trust_bundle, authority.intermediate, authority.intermediate_key, authority.root_key
        ),
    )
    yield InvalidInput, lambda: X509Svid(admin, svid.chain, svid.private_key, now)
    yield InvalidInput, lambda: X509Svid(web, svid.chain, authority.root_key, now)
    yield InvalidInput, lambda: X509Svid(web, authority.chain, svid.private_key, now)


def test_exceptions_hold_no_key(authority, svid, traces, now):
    for kind, attempt in failures(authority, svid, now):
        with pytest.raises(kind) as caught:
            attempt()
        error = caught.value
        assert isinstance(error, InterceptorError)
        assert str(error).isprintable()
        for link in (error, error.__cause__, error.__context__):
            for text in [*texts_of(link), repr(getattr(link, "args", ()))]:
                assert not any(trace in text for trace in traces)
