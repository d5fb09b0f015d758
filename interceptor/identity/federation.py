"""The root certificates of another trust domain, as an operator hands them in: what is wrong with them is said exactly.

A root vouches for every identity of its domain, so what is not certainly one of that domain is refused (SPIFFE Trust
Domain and Bundle, section 4: a bundle belongs to one trust domain).
"""

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from interceptor.errors import InvalidInput, quoted, utc
from interceptor.identity.certificates import fingerprint
from interceptor.identity.leaf_profile import UNREADABLE, find_extension
from interceptor.identity.spiffe_id import SCHEME, TrustDomain
from interceptor.identity.trust_bundle import TrustBundle


def read_foreign_roots(data: bytes, given: TrustDomain | None, now: datetime) -> TrustBundle:
    """PEM certificates to the trust bundle of `given`, or of the domain that all of them name.

    Raises InvalidInput, with the certificate's number in the file, for whatever is no root of that domain at `now`.
    """
    try:
        roots = x509.load_pem_x509_certificates(data)
    except ValueError:
        raise InvalidInput("it is not a list of PEM certificates") from None
    for number, root in enumerate(roots, start=1):
        problem = _problem(root, now)
        if problem is not None:
            raise InvalidInput(f"certificate {number} {problem}")
    _require_distinct(roots)
    return TrustBundle(_domain_of(roots, given), tuple(roots))


def _problem(root: x509.Certificate, now: datetime) -> str | None:
    """What is wrong with a root, whosever it is."""
    try:
        constraints = find_extension(root.extensions, x509.BasicConstraints)
        usage = find_extension(root.extensions, x509.KeyUsage)
    except UNREADABLE:
        return "has extensions that cannot be read"
    if constraints is None or not constraints.ca:
        return "is no certificate authority (CA:FALSE): give the root certificate"
    if usage is not None and not usage.key_cert_sign:
        return "may not sign certificates (its key usage lacks keyCertSign)"
    try:
        root.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return "is not signed by itself: give the root certificate, not an intermediate"
    if root.not_valid_after_utc <= now:
        return f"expired at {utc(root.not_valid_after_utc)}: ask for the new one"
    if root.not_valid_before_utc > now:
        return f"is not valid before {utc(root.not_valid_before_utc)}: compare the clocks"
    return None


def _require_distinct(roots: Sequence[x509.Certificate]) -> None:
    seen: dict[str, int] = {}
    for number, root in enumerate(roots, start=1):
        first = seen.setdefault(fingerprint(root), number)
        if first != number:
            raise InvalidInput(f"certificate {number} is the same as certificate {first}: give each once")


def _domain_of(roots: Sequence[x509.Certificate], given: TrustDomain | None) -> TrustDomain:
    named = [_named(number, root) for number, root in enumerate(roots, start=1)]
    domain = given or next((name for name in named if name is not None), None)
    if domain is None:
        raise InvalidInput("no certificate says whose root it is: give --trust-domain")
    for number, name in enumerate(named, start=1):
        if name not in (None, domain):
            raise InvalidInput(
                f"certificate {number} is a root of {name}, not of {domain}: give each domain's roots in a file of its own"
            )
        if name is None and given is None:
            raise InvalidInput(f"certificate {number} does not say whose root it is: give --trust-domain")
    return domain


def _named(number: int, root: x509.Certificate) -> TrustDomain | None:
    """The trust domain that a root names in its only URI, as the X.509-SVID specification wants it; None without one."""
    names = find_extension(root.extensions, x509.SubjectAlternativeName)
    uris = [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
    if not uris:
        return None
    if len(uris) > 1 or not uris[0].startswith(SCHEME):
        raise InvalidInput(
            f"certificate {number} names {quoted(', '.join(uris))}, expected one trust domain: spiffe://<trust domain>"
        )
    try:
        return TrustDomain.parse(uris[0].removeprefix(SCHEME))
    except InvalidInput as error:
        raise InvalidInput(f"certificate {number}: {error}") from None
