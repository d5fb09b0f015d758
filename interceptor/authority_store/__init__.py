"""Keep the embedded certificate authority on disk: the only private keys that ever touch one."""

from interceptor.authority_store.store import load_or_create

__all__ = ["load_or_create"]
