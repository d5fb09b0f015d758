// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* What arrives over a link: handed to the proxy. */
int steer_inbound(struct bpf_sk_lookup *ctx)
{
	struct address remote = {};
	struct bpf_sock *listener;
	int slot, is_tunnel, failed;

	if (ctx->protocol != PROTOCOL_TCP)
		return SK_PASS; /* UDP is not the mesh's */
	remote_address(ctx, remote.bytes);
	if (is_from_within(ctx, &remote))
		return SK_PASS;
	/* IPv6 names the link that has the address although the packet came over
	 * loopback.  Nobody outside can connect from one of our own addresses: the
	 * answer would never leave. */
	if (local_addresses.lookup(&remote))
		return SK_PASS;
	is_tunnel = ctx->local_port == INBOUND_TUNNEL_PORT;
	if (!is_tunnel && is_probe(ctx, &remote)) {
		count(COUNTER_PASSED_PROBES);
		return SK_PASS; /* from this node's kubelet, to a port that was declared */
	}
	if (ctx->family == FAMILY_INET)
		slot = is_tunnel ? LISTENER_TUNNEL_IPV4 : LISTENER_PLAINTEXT_IPV4;
	else
		slot = is_tunnel ? LISTENER_TUNNEL_IPV6 : LISTENER_PLAINTEXT_IPV6;
	listener = inbound_listeners.lookup(&slot);
	if (!listener) {
		count(COUNTER_REFUSED_NO_LISTENER);
		return SK_DROP; /* the agent is gone: refused, never passed on */
	}
	failed = bpf_sk_assign(ctx, listener, 0);
	bpf_sk_release(listener);
	if (failed) {
		count(COUNTER_REFUSED_NO_LISTENER);
		return SK_DROP;
	}
	if (is_tunnel)
		count(COUNTER_STEERED_TUNNEL);
	else
		count(COUNTER_STEERED_PLAINTEXT);
	return SK_PASS;
}
