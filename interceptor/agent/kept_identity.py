"""The node's own key and certificate across a restart of the agent, without a key on a disk.

They lie in the kernel's keyring, where every process of our user could read them, so they are encrypted; the key to
that lies in the state directory, where nobody finds anything else. Either half alone is worth nothing, and the first
ends with the boot: then the node comes back by its return token.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from interceptor.agent.state import write_atomically
from interceptor.errors import InterceptorError, KernelError, StateError
from interceptor.identity.svid import NodeSvid
from interceptor.kernel.keyring import Keyring

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.identity.node_id import NodeId

SECRET_FILE = "node.secret"  # noqa: S105 - a name
_SECRET_BYTES, _NONCE_BYTES = 32, 12


class KeptIdentity:
    """One node's; the state directory says which."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / SECRET_FILE
        self._description = f"interceptor node {state_dir}"
        self._keyring = Keyring(self._description)

    def store(self, svid: NodeSvid) -> None:
        """Keep this one in place of the last; KernelError or StateError when that cannot be done."""
        key = svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        content = {
            "key": key.hex(),
            "chain": [certificate.public_bytes(Encoding.DER).hex() for certificate in svid.chain],
            "issued_at": svid.issued_at.isoformat(),
        }
        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self._secret()).encrypt(nonce, json.dumps(content).encode(), self._associated())
        self._keyring.store(nonce + sealed)

    def load(self, node_id: NodeId) -> NodeSvid | None:
        """What was kept, None when nothing is that belongs to this node and can be read."""
        try:
            kept, secret = self._keyring.load(), self._path.read_bytes()
        except (KernelError, OSError):
            return None
        if kept is None or len(secret) != _SECRET_BYTES:
            return None
        try:
            content = AESGCM(secret).decrypt(kept[:_NONCE_BYTES], kept[_NONCE_BYTES:], self._associated())
            return _parse(node_id, json.loads(content))
        except (InvalidTag, ValueError, KeyError, TypeError, InterceptorError):
            return None  # of another node's name, or of another version: it joins again

    def forget(self) -> None:
        """Let go of key and certificate, as a boot does."""
        with suppress(KernelError):
            self._keyring.remove()

    def remove(self) -> None:
        """Keep nothing any more."""
        self.forget()
        self._path.unlink(missing_ok=True)

    def _secret(self) -> bytes:
        with suppress(OSError):
            secret = self._path.read_bytes()
            if len(secret) == _SECRET_BYTES:
                return secret
        secret = os.urandom(_SECRET_BYTES)
        write_atomically(self._path, secret)
        return secret

    def _associated(self) -> bytes:
        return self._description.encode()


def _parse(node_id: NodeId, content: dict[str, object]) -> NodeSvid:
    key = load_der_private_key(bytes.fromhex(str(content["key"])), password=None)
    chain = content["chain"]
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(chain, list):
        raise StateError("it is no identity of a node")
    certificates = tuple(x509.load_der_x509_certificate(bytes.fromhex(each)) for each in chain)
    return NodeSvid(node_id, certificates, key, datetime.fromisoformat(str(content["issued_at"])))
