"""The door to OpenSSL (pyOpenSSL): TLS 1.3, mutual, keys from memory, on non-blocking file descriptors.

- TLS 1.3 only; AES-GCM first, since processors encrypt it fastest; the key
  exchange is OpenSSL's default, X25519MLKEM768 first.
- No session resumption: a resumed session is not checked against the current
  trust bundle (SPIRE issue 6715).
- No SNI: the destination address selects the identity.
- The peer's certificate is mandatory on both sides, and is checked against the
  trust bundles inside the handshake; what SPIFFE demands beyond the chain is
  `TrustBundles.identify`'s.  Of nodes and the authority among themselves more
  is forgiven here and decided later: see infrastructure_tls.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import trio
from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL
from OpenSSL.crypto import X509

from interceptor.errors import PeerRejected
from interceptor.policy.verdict import Reason
from interceptor.protocol.connect_tunnel import ALPN_PROTOCOL
from interceptor.transport.streams import StreamBroken, abort_socket, wait_hung_up

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    from interceptor.identity.svid import X509Svid
    from interceptor.identity.trust_bundle import TrustBundles
    from interceptor.telemetry.connection_record import ConnectionRecord

TlsContext = SSL.Context  # for those who only hand it on

CIPHER_SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
RECORD_BYTES = 16384  # most plaintext in one TLS record (RFC 8446 section 5.1)

_openssl, _ffi = Binding().lib, Binding().ffi  # what pyOpenSSL itself calls
_MODE_ENABLE_PARTIAL_WRITE = 0x1  # openssl/ssl.h; pyOpenSSL sets it and does not export it

# X509_V_ERR_* of openssl/x509_vfy.h, those that an operator meets.
NOT_YET_VALID, EXPIRED = 9, 10
_VERIFY_ERRORS = {
    7: "its signature does not verify",
    18: "it is signed by itself",
    19: "its root is not in our trust bundle",
    20: "its issuer is not in our trust bundle",
    21: "its issuer is not in our trust bundle",
    24: "its issuer may not issue certificates",
    26: "its extended key usage is not for this",
    47: "its name is not one that its issuer may give",
}


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """What one workload's handshakes use: its SVID and the trust bundles, prepared once."""

    client: SSL.Context
    server: SSL.Context
    bundles: TrustBundles
    svid: X509Svid


def tls_contexts(svid: X509Svid, bundles: TrustBundles) -> TlsContexts:
    """Prepare both sides for one SVID and the trust bundles in force."""
    client, server = (
        new_context(bundles.roots, svid, server_side=server_side) for server_side in (False, True)
    )
    for context in (client, server):
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, refuse_unverified)
    return TlsContexts(client, server, bundles, svid)


class Proof(Protocol):
    """What one side shows: a chain, leaf first, and the key of its leaf."""

    @property
    def chain(self) -> tuple[x509.Certificate, ...]: ...

    @property
    def private_key(self) -> ec.EllipticCurvePrivateKey: ...


def new_context(roots: Iterable[x509.Certificate], proof: Proof | None, *, server_side: bool) -> SSL.Context:
    """What every context of ours has; how the peer is verified is still to be set (`set_verify`)."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD if server_side else SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(CIPHER_SUITES)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # One call then writes a whole buffer, not one record of it.
    context.clear_mode(_MODE_ENABLE_PARTIAL_WRITE)
    if server_side:
        context.set_alpn_select_callback(_select_protocol)
    else:
        context.set_alpn_protos([ALPN_PROTOCOL])
    store = context.get_cert_store()
    assert store is not None
    for root in roots:
        store.add_cert(X509.from_cryptography(root))
    if proof is not None:
        context.use_certificate(proof.chain[0])
        for intermediate in proof.chain[1:]:
            context.add_extra_chain_cert(intermediate)
        context.use_privatekey(proof.private_key)
    return context


def _select_protocol(_: SSL.Connection, offered: Sequence[bytes]) -> Any:  # noqa: ANN401 - the type of the constant is private
    # None in common: the handshake goes on, so that the peer is known when it is refused (`speaks_tunnel`).
    return ALPN_PROTOCOL if ALPN_PROTOCOL in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def refuse_unverified(_: SSL.Connection, certificate: X509, error: int, depth: int, ok: int) -> bool:
    """For `set_verify`: raise PeerRejected for whatever OpenSSL finds wrong with the peer's chain."""
    if ok:
        return True
    what = "the peer's certificate" if depth == 0 else "a certificate in the peer's chain"
    if error == EXPIRED:
        ends = certificate.to_cryptography().not_valid_after_utc
        raise PeerRejected(Reason.PEER_CERTIFICATE_EXPIRED, f"{what} expired at {ends:%Y-%m-%dT%H:%M:%SZ}")
    if error == NOT_YET_VALID:
        begins = certificate.to_cryptography().not_valid_before_utc
        raise PeerRejected(
            Reason.PEER_CERTIFICATE_NOT_YET_VALID,
            f"{what} is not valid before {begins:%Y-%m-%dT%H:%M:%SZ}: are the clocks right?",
        )
    cause = _VERIFY_ERRORS.get(error, f"OpenSSL verification error {error}")
    raise PeerRejected(Reason.PEER_UNTRUSTED, f"{what} is not trusted: {cause}")


class TlsStream:
    """TLS on a connected, non-blocking TCP socket, as a ByteStream."""

    def __init__(self, context: SSL.Context, sock: socket.socket, *, server_side: bool) -> None:
        self._socket = sock
        self._connection = SSL.Connection(context, sock)
        if server_side:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()
        self._ssl = self._connection._ssl  # noqa: SLF001 - see _read_records
        self._drained = True
        self._failure: StreamBroken | None = None
        self._writable: trio.Event | None = None

    async def handshake(self) -> None:
        """Until both sides are done; PeerRejected when either refuses, StreamBroken when the peer goes away."""
        while True:
            try:
                self._connection.do_handshake()
            except SSL.WantReadError:
                await trio.lowlevel.wait_readable(self._socket)
            except SSL.WantWriteError:
                await trio.lowlevel.wait_writable(self._socket)
            except SSL.SysCallError as error:
                raise _broken(error) from error
            except SSL.Error as error:
                raise _handshake_refusal(error) from error
            else:
                return

    def verified_chain(self) -> tuple[x509.Certificate, ...]:
        """The peer's chain as it was verified, leaf first, root last."""
        return tuple(self._connection.get_verified_chain(as_cryptography=True) or ())

    def presented_chain(self) -> tuple[x509.Certificate, ...]:
        """What the server showed, verified or not, in the order in which it was sent."""
        return tuple(self._connection.get_peer_cert_chain(as_cryptography=True) or ())

    def speaks_tunnel(self) -> bool:
        """Whether both sides agreed on the tunnel's protocol (ALPN)."""
        return self._connection.get_alpn_proto_negotiated() == ALPN_PROTOCOL

    def note_parameters(self, record: ConnectionRecord) -> None:
        """Put what was negotiated into the connection's record."""
        record.tls_version = self._connection.get_protocol_version_name()
        record.cipher = self._connection.get_cipher_name()
        record.key_exchange = self._connection.get_group_name()

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill `buffer`, which holds at least one record, with as many records as are there."""
        assert len(buffer) >= RECORD_BYTES
        if self._failure is not None:
            raise self._failure
        if self._drained:
            await trio.lowlevel.wait_readable(self._socket)
        while True:
            try:
                return self._read_records(buffer)
            except SSL.WantReadError:
                await trio.lowlevel.wait_readable(self._socket)
            except SSL.WantWriteError:
                await self._wait_writable()  # a key update's answer has to leave first
            except SSL.ZeroReturnError:
                return 0
            except SSL.Error as error:
                raise _broken(error) from error

    def _read_records(self, buffer: memoryview) -> int:
        """Read until nothing more is there or fits; SSL.Error only when that is so at once.

        SSL_read and not `Connection.recv_into`, which reads into memory of its own and then
        copies: that costs a bulk flow up to a tenth of its throughput, and a third more user CPU.
        """
        filled = 0
        with _ffi.from_buffer(buffer, require_writable=True) as start:
            while len(buffer) - filled >= RECORD_BYTES:
                received = _openssl.SSL_read(self._ssl, start + filled, RECORD_BYTES)
                if received <= 0:
                    self._note_why_none(received, filled)
                    break
                filled += received
                # OpenSSL reads exactly one record: a short one was most likely the last.
                self._drained = received < RECORD_BYTES
                if self._drained:
                    break
        return filled

    def _note_why_none(self, result: int, filled: int) -> None:
        """Raise SSL.Error for what SSL_read returned; after data, keep it for the next call: data come first."""
        self._drained = False
        try:
            self._connection._raise_ssl_error(self._ssl, result)  # noqa: SLF001 - as recv_into does
        except SSL.Error as error:
            if not filled:
                raise
            if isinstance(error, SSL.WantReadError):
                self._drained = True
            elif not isinstance(error, (SSL.WantWriteError, SSL.ZeroReturnError)):  # those will come again
                self._failure = _broken(error)

    async def send_all(self, data: memoryview) -> None:
        while True:
            try:
                self._connection.send(data)
            except SSL.WantWriteError:
                await self._wait_writable()  # and then again with the same data (SSL_write(3))
            except SSL.WantReadError:
                await trio.lowlevel.wait_readable(self._socket)
            except SSL.Error as error:
                raise _broken(error) from error
            else:
                return

    async def finish_sending(self) -> None:
        """Send close_notify, which ends one direction only (RFC 8446 section 6.1)."""
        while True:
            try:
                self._connection.shutdown()
            except SSL.WantWriteError:
                await self._wait_writable()
            except SSL.WantReadError:
                return
            except SSL.Error as error:
                raise _broken(error) from error
            else:
                return

    async def wait_reset(self) -> None:
        await wait_hung_up(self._socket)

    def close(self) -> None:
        self._socket.close()

    def abort(self) -> None:
        abort_socket(self._socket)

    async def _wait_writable(self) -> None:
        # Both directions may have something to write; trio lets one task wait.
        if self._writable is not None:
            await self._writable.wait()
            return
        self._writable = trio.Event()
        try:
            await trio.lowlevel.wait_writable(self._socket)
        finally:
            self._writable.set()
            self._writable = None


def _handshake_refusal(error: SSL.Error) -> PeerRejected:
    text = _error_text(error)
    if "did not return a certificate" in text:
        return PeerRejected(Reason.PEER_WITHOUT_CERTIFICATE, "the peer sent no certificate")
    return PeerRejected(Reason.HANDSHAKE_FAILED, text)


def _broken(error: SSL.Error) -> StreamBroken:
    # The error queue is the thread's, and pyOpenSSL leaves a failed system call in
    # it: the next connection would take that for an error of its own.
    _openssl.ERR_clear_error()
    return StreamBroken(_error_text(error))


def _error_text(error: SSL.Error) -> str:
    if isinstance(error, SSL.SysCallError):
        return _syscall_text(error)
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(entry[2]) for entry in entries) or "TLS error without a reason"


def _syscall_text(error: SSL.SysCallError) -> str:
    number = error.args[0] if error.args else -1
    return os.strerror(number) if isinstance(number, int) and number > 0 else "ended without close_notify"
