"""The commands of `interceptor ca`: the certificate authority of this machine, embedded or served."""

from interceptor.cli.ca.group import ca

__all__ = ["ca"]
