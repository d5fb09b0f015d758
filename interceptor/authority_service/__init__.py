"""The certificate authority at work: what nodes may ask, over HTTPS or in the same process. **Does I/O.**

desk             one method for each thing that can be asked
view             what the store says, read once after each change
audit            a line for each certificate and each refusal
routes           the API: requests to questions, refusals to answers
http             HTTP/1.1 on one connection, bounded
service_context  the service's own certificate
watched          metrics of all of it
server           connections, bounded
serve            all of it, for `interceptor ca serve`
shared_objects   what an authority of several replicas has in the Kubernetes API, read and written
shared_state     its state, changed one step after the other
leadership       which replica leads
replica          what each follows, and what the leader does
cluster_nodes    which nodes there are, and what they told
policy_status    tells the API whether policies can be enforced, while it leads
serve_shared     all of it, for one replica
embedded         the same desk for an agent with an authority of its own
"""

from interceptor.authority_service.audit import Audit
from interceptor.authority_service.desk import AuthorityDesk, DeskLimits
from interceptor.authority_service.embedded import EmbeddedAuthority
from interceptor.authority_service.serve import serve
from interceptor.authority_service.server import ServerLimits

__all__ = ["Audit", "AuthorityDesk", "DeskLimits", "EmbeddedAuthority", "ServerLimits", "serve"]
