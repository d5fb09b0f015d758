"""An authority elsewhere, as a node sees it: over HTTPS, with the node's own certificate. **Does I/O.**

client      what can be asked
channel     questions and answers over keep-alive connections
resolve     the way there: an address, or a name that is looked up
connection  one of them
recognise   who answers: the right authority, a wrong one, or one with another clock
"""

from interceptor.authority_client.client import AuthorityClient
from interceptor.errors import AuthorityRefusal

__all__ = ["AuthorityClient", "AuthorityRefusal"]
