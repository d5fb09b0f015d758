"""An authority of several replicas, whose only store is the Kubernetes API: what is written there, and by whom.

Rules only: bytes that somebody else gets and sends, and the time as an argument.

names       which objects one authority has
objects     the Secret and the ConfigMaps, each changed only at the version that was read
lease       who may change them
node_facts  what nodes have told the replicas about a rotation
"""
