// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* From the application's socket to the proxy's: where a connection was meant to go. */
/* The SYN is about to leave: file the destination under the client's end. */
static __always_inline void flow_begins(struct bpf_sock_ops *ops, struct bpf_sock *sk, struct flow *flow)
{
	struct connection *kept = connected_to.sk_storage_get(sk, 0, 0);
	struct original_destination copy = {};

	if (!kept)
		return; /* connected to the proxy's port by itself: not captured */
	__builtin_memcpy(copy.address, kept->address, 16);
	copy.port = kept->port;
	local_end(ops, flow);
	/* One that is held is filed when it is let through, by guard_egress. */
	if (!kept->held_in && pending_flows.update(flow, &copy)) {
		count(COUNTER_REFUSED_FLOW);
		return; /* the proxy refuses a connection without a destination */
	}
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* The proxy's end of it is there: hand the destination to that socket. */
static __always_inline void flow_accepted(struct bpf_sock_ops *ops, struct bpf_sock *sk, struct flow *flow)
{
	struct original_destination *destination, *kept;

	remote_end(ops, flow);
	destination = pending_flows.lookup(flow);
	if (!destination)
		return;
	kept = accepted_for.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (kept)
		*kept = *destination;
	else
		count(COUNTER_REFUSED_STORAGE);
	pending_flows.delete(flow);
}

/*
 * An application has a connection with the proxy, which borrowed a client's
 * address.  Only rules and routes keep its answers on loopback, and whoever
 * administers the namespace can take them away ("ip rule flush", or loopback is
 * brought down): bound to loopback, they leave by no link then.
 */
static __always_inline void keep_on_loopback(struct bpf_sock_ops *ops)
{
	char loopback[] = "lo";

	if (bpf_setsockopt(ops, LEVEL_SOCKET, OPTION_BIND_TO_DEVICE, loopback, sizeof(loopback)))
		count(COUNTER_UNBOUND_ANSWERS);
}

/* A connection that is held is tried again soon, and not only after a second. */
static __always_inline int answer_first_timeout(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct connection *kept = connected_to.sk_storage_get(sk, 0, 0);

	if (kept && kept->held_in)
		ops->reply = HELD_FIRST_RETRY_TICKS;
	return PROCEED; /* anything else would take the reply back, ours and everybody's */
}

int track_flows(struct bpf_sock_ops *ops)
{
	struct flow flow = {};
	struct bpf_sock *sk = ops->sk;

	if (!sk)
		return PROCEED;
	if (ops->op == BPF_SOCK_OPS_TIMEOUT_INIT)
		return answer_first_timeout(ops, sk);
	flow.netns_cookie = namespace_of_socket(ops, sk);
	if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		if (is_relay(sk))
			relay_begins(ops);
		else if (ops->remote_port == bpf_htonl(OUTBOUND_PORT) && flow.netns_cookie != STRANGERS)
			flow_begins(ops, sk, &flow);
	} else if (ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		if (ops->local_port == OUTBOUND_PORT && flow.netns_cookie != STRANGERS)
			flow_accepted(ops, sk, &flow);
		else if (sk->mark == RETURN_PATH_MARK && is_of_relay(ops, flow.netns_cookie))
			keep_on_loopback(ops);
	} else if (ops->op == BPF_SOCK_OPS_STATE_CB && ops->args[1] == BPF_TCP_CLOSE) {
		if (is_relay(sk)) {
			relay_ended(ops);
			return PROCEED;
		}
		/* Only captured sockets ask for this; it may not have got through. */
		local_end(ops, &flow);
		pending_flows.delete(&flow);
	}
	return PROCEED;
}

int answer_original_destination(struct bpf_sockopt *ctx)
{
	struct original_destination *kept;

	if (ctx->optname != OPTION_ORIGINAL_DST || (ctx->level != LEVEL_IP && ctx->level != LEVEL_IPV6)) {
		/* Larger answers than a page reach us cut off: keep the kernel's. */
		if (ctx->optlen > PAGE_BYTES)
			ctx->optlen = 0;
		return PROCEED;
	}
	if (!ctx->sk)
		return PROCEED;
	kept = accepted_for.sk_storage_get(ctx->sk, 0, 0);
	if (!kept)
		return PROCEED;
	if (ctx->level == LEVEL_IP && is_ipv4_mapped(kept->address)) {
		struct sockaddr_in *answer = ctx->optval;

		if ((void *)(answer + 1) > ctx->optval_end)
			return REFUSE;
		answer->sin_family = FAMILY_INET;
		answer->sin_port = kept->port;
		answer->sin_addr.s_addr = address_word(kept->address, 3);
		__builtin_memset(answer->__pad, 0, sizeof(answer->__pad));
		ctx->optlen = sizeof(*answer);
	} else if (ctx->level == LEVEL_IPV6 && !is_ipv4_mapped(kept->address)) {
		struct sockaddr_in6 *answer = ctx->optval;

		if ((void *)(answer + 1) > ctx->optval_end)
			return REFUSE;
		answer->sin6_family = FAMILY_INET6;
		answer->sin6_port = kept->port;
		answer->sin6_flowinfo = 0;
		__builtin_memcpy(&answer->sin6_addr, kept->address, 16);
		answer->sin6_scope_id = 0;
		ctx->optlen = sizeof(*answer);
	} else {
		return PROCEED;
	}
	/* LLVM would merge the two stores, which the verifier refuses. */
	asm volatile("" ::: "memory");
	ctx->retval = 0;
	return PROCEED;
}
