"""Keep a certificate authority on disk, with the only private keys that ever touch one. Does I/O."""

from interceptor.authority_store.store import AuthorityStore, load_or_create

__all__ = ["AuthorityStore", "load_or_create"]
