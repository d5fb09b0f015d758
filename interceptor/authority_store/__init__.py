"""Keep a certificate authority on disk, with the only private keys that ever touch one. Does I/O."""

from interceptor.authority_store.saved import Saved, without_root_keys
from interceptor.authority_store.store import AuthorityStore, discard, load_or_create

__all__ = ["AuthorityStore", "Saved", "discard", "load_or_create", "without_root_keys"]
