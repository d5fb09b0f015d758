"""What the Kubernetes API says, as values: parsed, kept, and asked who is in the mesh and where a service leads.

**Pure.**

fields, head        the JSON of one object, bounded, and what names it
pod, namespace, service, endpoint_slice    the few fields of each kind that we read
probe_ports         which ports of a pod its kubelet connects to
wire                pages of a list and lines of a watch
condition           what we wrote into the status of an object
policy_object       Istio's policies, as the documents that they are
persistent_map      an immutable map that is cheap to change
table               the objects of one kind: lists and events in any order end at the API's state
cluster             the tables of all kinds, one snapshot
membership          is a pod in the mesh, as whom, and if not, why
workloads           the pods that are in the mesh, by UID
resolution          which pods a service address leads to, as kube-proxy would choose them
affinity            which of them a client gets
names               a service by its DNS name
"""
