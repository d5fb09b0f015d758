"""The command line: nouns read, verbs change. **Does I/O.**"""

import signal

# To import the commands takes most of a short command's time.  Who presses Ctrl-C meanwhile is shown no traceback
# either; afterwards `main` sees to it.  Whoever ignores interrupts, or handles them, goes on doing so.
_quiet = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _quiet:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from interceptor.cli.main import main  # noqa: E402 - see above

if _quiet:
    signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["main"]
