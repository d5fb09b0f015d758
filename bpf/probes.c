// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Probes.  track_probes is attached to the cgroup of the node's kubelet.  Just
 * before the SYN of one of its connections to a declared port leaves, the
 * connection is filed with both its ends; while it is, no other socket of the
 * kubelet's namespace can have them.  steer_inbound lets it through to the
 * application, and nothing else.
 */
int track_probes(struct bpf_sock_ops *ops)
{
	struct ends flow = {};
	struct probe_target target = {};
	struct bpf_sock *sk = ops->sk;
	__u8 present = 1;

	if (!sk)
		return PROCEED;
	if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		both_ends(ops, &flow);
		target.netns_cookie = namespace_of_socket(ops, sk);
		__builtin_memcpy(target.address, flow.target_address, 16);
		target.port = flow.target_port;
		if (!probe_targets.lookup(&target))
			return PROCEED;
		if (probe_flows.update(&flow, &present))
			count(COUNTER_REFUSED_PROBES);
		else
			bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	} else if (ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB ||
		   (ops->op == BPF_SOCK_OPS_STATE_CB && ops->args[1] == BPF_TCP_CLOSE)) {
		both_ends(ops, &flow);
		probe_flows.delete(&flow);
	}
	return PROCEED;
}

static __always_inline int is_probe(struct bpf_sk_lookup *ctx, struct address *remote)
{
	struct ends flow = {};

	arriving_ends(ctx, remote, &flow);
	return probe_flows.lookup(&flow) != 0;
}
