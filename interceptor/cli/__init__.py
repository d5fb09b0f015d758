"""The command line: nouns read, verbs change. **Does I/O.**"""

from interceptor.cli.main import main

__all__ = ["main"]
