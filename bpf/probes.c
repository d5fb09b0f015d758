// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Probes.  track_probes is attached to the cgroup of the node's kubelet.  Just
 * before the SYN of one of its connections to a declared port leaves, the
 * connection is filed with both its ends; while it is, no other socket of the
 * kubelet's namespace can have them.  steer_inbound lets it through to the
 * application, and nothing else.
 */
static __always_inline void probe_ends(struct bpf_sock_ops *ops, struct probe_flow *flow)
{
	struct flow end = {};

	local_end(ops, &end);
	__builtin_memcpy(flow->client_address, end.client_address, 16);
	flow->client_port = end.client_port;
	remote_end(ops, &end);
	__builtin_memcpy(flow->target_address, end.client_address, 16);
	flow->target_port = end.client_port;
}

int track_probes(struct bpf_sock_ops *ops)
{
	struct probe_flow flow = {};
	struct probe_target target = {};
	__u8 present = 1;

	if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		probe_ends(ops, &flow);
		target.netns_cookie = bpf_get_netns_cookie(ops);
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
		probe_ends(ops, &flow);
		probe_flows.delete(&flow);
	}
	return PROCEED;
}

static __always_inline int is_probe(struct bpf_sk_lookup *ctx, struct address *remote)
{
	struct probe_flow flow = {};

	__builtin_memcpy(flow.client_address, remote->bytes, 16);
	flow.client_port = bpf_ntohs(ctx->remote_port);
	local_address(ctx, flow.target_address);
	flow.target_port = ctx->local_port;
	return probe_flows.lookup(&flow) != 0;
}
