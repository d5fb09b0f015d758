"""Parse, validate and print trust domains and SPIFFE IDs.

The rules are those of the SPIFFE-ID specification (sections 2.1 to 2.4), narrowed to the one path that Istio uses:
`spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, where the last two are Kubernetes names.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from interceptor.errors import InvalidInput, quoted

SCHEME: Final = "spiffe://"
FORM: Final = f"{SCHEME}<trust domain>/ns/<namespace>/sa/<service account>"
MAX_URI_BYTES: Final = 2048  # SPIFFE-ID 2.3
MAX_TRUST_DOMAIN_BYTES: Final = 255  # SPIFFE-ID 2.3
MAX_LABEL_LENGTH: Final = 63  # RFC 1123, as Kubernetes applies it
MAX_SUBDOMAIN_LENGTH: Final = 253
SERVICE_ACCOUNT: Final = "service account"
NODE: Final = "node"  # the first part of a node's path, and the only one of the authority's: see node_id
AUTHORITY: Final = "authority"

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
# SPIFFE would also take an empty label; a leading dot in a name constraint means "every subdomain", so we do not.
_TRUST_DOMAIN = re.compile(r"[-_a-z0-9]+(\.[-_a-z0-9]+)*")
_PRINTABLE = re.compile(r"[!-~]*")
_FORBIDDEN_IN_URI: Final = (
    ("%", "percent-encoding"),
    ("?", "a query"),
    ("#", "a fragment"),
    ("@", "user information"),
)


def validate_name(kind: str, value: str) -> str:
    """Return `value` if it is a valid Kubernetes name of that kind.

    A "service account" is a DNS-1123 subdomain of at most 253 characters; every other kind (namespace, workload name)
    is a DNS-1123 label of at most 63. Source: kubernetes.io, "Object Names and IDs". Raises InvalidInput.
    """
    if kind == SERVICE_ACCOUNT:
        return validate_dotted_name(kind, value)
    return _validated(kind, value, _LABEL, MAX_LABEL_LENGTH, "letters, digits and '-'")


def validate_dotted_name(kind: str, value: str) -> str:
    """Return `value` if it is a DNS-1123 subdomain, as the names of most of Kubernetes' objects; raises InvalidInput."""
    return _validated(kind, value, _SUBDOMAIN, MAX_SUBDOMAIN_LENGTH, "letters, digits, '-' and '.'")


def _validated(kind: str, value: str, pattern: re.Pattern[str], limit: int, characters: str) -> str:
    if not value:
        raise InvalidInput(f"{kind} is empty, give a name such as 'web'")
    if len(value) > limit:
        raise InvalidInput(f"{kind} {quoted(value)} has {len(value)} characters, at most {limit} are allowed")
    if not pattern.fullmatch(value):
        raise InvalidInput(
            f"{kind} {quoted(value)} is not a valid name, use lower-case {characters}, "
            "beginning and ending with a letter or digit"
        )
    return value


@dataclass(frozen=True, slots=True)
class TrustDomain:
    """The naming root under one authority, such as `cluster.local`; every instance is valid."""

    name: str

    def __post_init__(self) -> None:
        """Raise InvalidInput unless the name is one (SPIFFE-ID 2.1), without empty labels."""
        if len(self.name) > MAX_TRUST_DOMAIN_BYTES:
            raise InvalidInput(
                f"trust domain {quoted(self.name)} has {len(self.name)} characters, "
                f"at most {MAX_TRUST_DOMAIN_BYTES} are allowed"
            )
        if not _TRUST_DOMAIN.fullmatch(self.name):
            raise InvalidInput(
                f"trust domain {quoted(self.name)} is not valid, use lower-case letters, digits, '-', '_' "
                "and single dots between them, such as cluster.local"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Text without scheme or path to a value; raises InvalidInput."""
        return cls(text)

    @property
    def uri(self) -> str:
        """The SPIFFE ID of the trust domain itself, `spiffe://<name>`, which only its authority may carry."""
        return f"{SCHEME}{self.name}"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """The identity of a workload; every instance is valid, and `SpiffeId.parse(str(x)) == x`."""

    trust_domain: TrustDomain
    namespace: str
    service_account: str

    def __post_init__(self) -> None:
        """Raise InvalidInput unless both names are valid."""
        validate_name("namespace", self.namespace)
        validate_name(SERVICE_ACCOUNT, self.service_account)

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Turn exactly `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` into a value.

        Nothing is normalised: two URIs that differ in a byte are never the same identity. Raises InvalidInput,
        and nothing else, for every other string.
        """
        trust_domain, segments = split_uri(uri, FORM)
        if len(segments) != 4 or segments[0::2] != ("ns", "sa"):
            raise InvalidInput(f"SPIFFE ID {quoted(uri)} {_instead_of_a_workload(segments)}, expected {FORM}")
        return cls(trust_domain, namespace=segments[1], service_account=segments[3])

    @property
    def principal(self) -> str:
        """The identity as a policy writes it: without the scheme (Istio's form)."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    def __str__(self) -> str:
        return f"{SCHEME}{self.principal}"


def is_subdomain(value: str) -> bool:
    """Say whether every label is one of DNS-1123; the length is the caller's rule."""
    return _SUBDOMAIN.fullmatch(value) is not None


def split_uri(uri: str, form: str) -> tuple[TrustDomain, tuple[str, ...]]:
    """Take a SPIFFE ID apart: trust domain and the parts of its path, none of them empty, '.' or '..'.

    `form` is what was expected, for the message. Raises InvalidInput for what is no SPIFFE ID.
    """
    _refuse_foreign_syntax(uri)
    trust_domain, *segments = uri.removeprefix(SCHEME).split("/")
    if ":" in trust_domain:
        raise InvalidInput(f"SPIFFE ID {quoted(uri)} has a port, which no SPIFFE ID may have")
    if {"", ".", ".."} & {trust_domain, *segments}:
        raise InvalidInput(f"SPIFFE ID {quoted(uri)} has an empty, '.' or '..' part, expected {form}")
    return TrustDomain(trust_domain), tuple(segments)


def _instead_of_a_workload(segments: tuple[str, ...]) -> str:
    if len(segments) == 2 and segments[0] == NODE:
        return "is a node's identity, not a workload's"
    if segments == (AUTHORITY,):
        return "is the authority's identity, not a workload's"
    return "names no workload"


def _refuse_foreign_syntax(uri: str) -> None:
    """Raise InvalidInput for what no SPIFFE ID may contain, before anything is taken apart."""
    if len(uri) > MAX_URI_BYTES:
        raise InvalidInput(f"SPIFFE ID {quoted(uri)} is longer than {MAX_URI_BYTES} bytes")
    if not _PRINTABLE.fullmatch(uri):
        raise InvalidInput(
            f"SPIFFE ID {quoted(uri)} has a control character, a space or a non-ASCII character"
        )
    if not uri.startswith(SCHEME):
        raise InvalidInput(f"SPIFFE ID {quoted(uri)} does not begin with {SCHEME}, expected {FORM}")
    for character, meaning in _FORBIDDEN_IN_URI:
        if character in uri:
            raise InvalidInput(f"SPIFFE ID {quoted(uri)} has {meaning}, which no SPIFFE ID may have")
