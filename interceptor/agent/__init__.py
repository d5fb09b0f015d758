"""The composition root: builds the parts, joins them under one nursery, swaps snapshots, shuts down.

main              directories, lock, authority, programs; then the event loop
node              what runs inside the loop, from taking over to stopping
requests          the verbs of the admin socket: enrol, run, withdraw, down
views             its nouns: workloads, connections, certificates, status, explain
health            what is wrong with a workload, measured now
explain           what would happen to one connection, with explain_ends and explanation
explain_record    what happened to one, from its record
enroller          takes workloads in and out, undoing everything upon failure
preparation       the steps of taking one in
members           which there are now, and what is written down of them
claims            which names, namespaces and addresses they may have
attendant         what each needs all the time: certificates, current addresses
beliefs           whom they believe
pod_keeper        in a cluster: has the pods enrolled that shall be
pod_gate          which of the others wait, and which are outside of the mesh
pod_probes        which connections of the kubelet are probes
cluster_routes    where connections to the cluster's services lead
pod_status        tells the API how the pods stand; node_view tells a person
cluster_side      the API of the cluster, and who is told what of it
cluster_policies  its policy objects as a source of policies
pod_authority     its authority, joined with the pod's own token
workload_context  what one workload's proxy is given
listeners         its listening sockets
reference         which network namespace is meant, and whether it is still there
state             what has to survive the agent: the enrolled workloads
records           connection records to file, metrics and memory
signer            the embedded authority as whoever issues certificates
hosts             the names that `interceptor run` shows
teardown          `down` when no agent is left to do it
"""
