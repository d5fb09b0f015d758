"""Whether this machine can run an agent: each thing is tried, and what was made for it is removed again.

finding   what a check says
subject   what is checked, and what one check finds for the next
system    privileges, kernel, limits, clock
storage   file systems and directories
compiler  bcc, kernel headers, the programs
hooks     attaching the programs; other software's programs
network   namespaces, links, addresses, ports
runner    all of them in order
"""

from interceptor.kernel.preflight.finding import Finding, Level
from interceptor.kernel.preflight.runner import run_checks

__all__ = ["Finding", "Level", "run_checks"]
