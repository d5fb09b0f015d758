"""The certificates of this node: asked for in turn, kept fresh, never given up while they are valid. Does I/O."""

from interceptor.credentials.keeper import Credentials, CredentialStatus, Observer, certificate_state

__all__ = ["CredentialStatus", "Credentials", "Observer", "certificate_state"]
