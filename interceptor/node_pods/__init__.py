"""What one node makes of the cluster's state: who shall be in the mesh here, who is elsewhere, where a connection leads.

**Pure.**

pod_cgroup    which pod a cgroup is, by its name
pods          the pods of a node, each with what shall become of it
steps         what must be done so that what is enrolled is what shall be
elsewhere     the workloads of the other nodes, looked up in the snapshot when they are asked for
destination   which pod a connection to an address leads to
service_addresses    what of services is captured beyond the mesh's ranges
policies      Istio's objects as documents; one that cannot be used keeps its last good state
"""
