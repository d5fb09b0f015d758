"""The config file that `interceptor` offers to write: every key with its default and what it is for."""

_DEFAULT_TEXT = """\
# Settings of the interceptor agent on this host. A key that is left out has the value shown here.
# Durations are a whole number with a unit: ms, s, m or h.

# The name of this host in the registry and in metrics; what the host calls itself when left out.
#node: node-1

# The naming root of all identities, spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
trustDomain: cluster.local

# STRICT: only mutual TLS reaches a workload. PERMISSIVE: plaintext too. DISABLE: plaintext too, and what workloads
# send to each other is plaintext.
mode: STRICT

mesh:
  # Connections to these addresses are captured; all others are left alone. An address in here that belongs to no
  # enrolled workload is refused, never dialled in plaintext.
  cidrs:
    - 10.215.0.0/16
    - fd15:8::/64

bridge:
  # Joins the workloads of 'interceptor run'. The addresses are the host's own on it; their networks must be inside
  # mesh.cidrs.
  name: interceptor0
  ipv4: 10.215.0.1/16
  ipv6: fd15:8::1/64

authority:
  # Where 'interceptor ca serve' listens, for a mesh of several hosts: an address, or a name (ca.example.org:15012). The
  # agent joins it with a token ('interceptor up --join-token-file'). Left out, it keeps an authority of its own, for
  # this host alone.
  #address: 192.0.2.1:15012

certificates:
  # From 10s to 24h. A certificate is renewed when half to three fifths of it have passed.
  lifetime: 24h
  # A connection is closed when the certificate that its peer showed has been expired for so long.
  expiredPeerGrace: 1h

paths:
  state: /var/lib/interceptor
  run: /run/interceptor
  bpf: /sys/fs/bpf/interceptor
  # The root of a cgroup-v2 hierarchy; the first one mounted when left out.
  #cgroup: /sys/fs/cgroup
  # A kernel header tree for compiling the BPF programs; the installed one when left out.
  #kernelHeaders: /usr/src/linux-headers
  # One JSON line for each finished connection; connections.jsonl in the state directory when left out.
  #records: /var/lib/interceptor/connections.jsonl

  # Policy documents (*.yaml), looked at every second; none if the directory is not there.
  policies: /etc/interceptor/policies
  # One JSON line for each denial, change of policy and use of an exception; audit.jsonl in the state directory when
  # left out.
  #audit: /var/lib/interceptor/audit.jsonl

policy:
  # PeerAuthentications and AuthorizationPolicies of this namespace are for the whole mesh.
  rootNamespace: istio-system
  # REFUSE or FLAG a peer whose identity is not that of the workload which has its address by the registry.
  addressMismatch: REFUSE

limits:
  # How long a connection to an address that no workload has yet is held before it is refused.
  unknownDestinationWait: 2s
  handshakeTimeout: 10s
  connectTimeout: 10s
  connectionsPerWorkload: 10000
  pendingHandshakes: 1000
  # Connections are closed when they are older than this; left out, they may be as old as they like.
  #connectionMaxAge: 12h
  # For so long an agent that has handed the node over to another one goes on relaying what was open.
  drainTime: 5m
  # The file of records is rotated at this size; one rotated file is kept.
  recordsBytes: 16777216

kubernetes:
  # With any of these keys the host is a node of a cluster: its workloads are the pods that the API shows on it, in
  # namespaces with the label interceptor.io/mesh=enabled. Then mesh.cidrs must be set, to the networks of all pods and
  # services. 'node' is $NODE_NAME when left out, and authority.address that of the service interceptor-authority, by
  # $INTERCEPTOR_AUTHORITY_SERVICE_HOST and _PORT.
  # The pod's token for the audience interceptor-ca, and the SHA-256 of the authority's root: with both it joins.
  #joinTokenFile: /var/run/secrets/interceptor/token
  #rootFile: /etc/interceptor-root/root.sha256
  # The API server, a token to show it and the CA of its certificate; as in a pod when left out.
  #server: https://10.96.0.1:443
  #tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
  #caFile: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
  # The cgroup of all pods; kubepods.slice or kubepods below the root of cgroup v2 when left out.
  #podsCgroup: /sys/fs/cgroup/kubepods.slice
  # The cgroup of the kubelet, whose probes of declared ports pass in STRICT mode too; that of the process 'kubelet'
  # when left out.
  #kubeletCgroup: /sys/fs/cgroup/system.slice/kubelet.service
  # Whether the status of each pod tells how it stands, as the condition interceptor.io/Enrolled: write or omit.
  #podConditions: write

metrics:
  # Where Prometheus scrapes. It shows names of workloads, so keep it on loopback or behind a firewall.
  address: 127.0.0.1:15020
"""


def default_config_text() -> str:
    """A commented config.yaml; `parse_config` of it gives the defaults."""
    return _DEFAULT_TEXT
