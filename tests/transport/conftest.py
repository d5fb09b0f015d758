"""What must be true after every test here: OpenSSL's error queue is empty."""

from tests.harness.openssl_errors import clean_error_queue

__all__ = ["clean_error_queue"]
