// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Held until it is known.
 *
 * The guard_* programs are attached to the cgroup below which pods are made.  A
 * network namespace there that is neither enrolled nor outside is unknown, and
 * waits: connect(2) is sent to the proxy's loopback listener as if it were
 * enrolled, and its SYN is dropped until the namespace is known, so that TCP
 * itself is what waits.  Then the next SYN passes, and reaches the proxy of the
 * workload, or for a namespace that is outside a listener that carries it on in
 * plaintext (steer_held).  What arrives over a link at a listening socket of an
 * unknown namespace is dropped in the same way, also when the socket is from a time
 * when the namespace was known: made_in says where it was made.
 *
 * The packet programs are handed every packet, and look at the socket's state only,
 * unless it is a connection's first.
 */
static __always_inline int is_unknown(__u64 netns_cookie)
{
	return !workloads.lookup(&netns_cookie) && !outside.lookup(&netns_cookie);
}

/* Whether what unknown namespaces connect to is captured wherever it is: an egress
 * policy may turn out to be theirs. */
static __always_inline int is_everything_held(void)
{
	__u64 strangers = STRANGERS;

	return workloads.lookup(&strangers) != 0;
}

/* The agent is woken once for each namespace; what it does not see then is in `waiting`. */
static __always_inline void announce(__u64 netns_cookie, struct newcomer *newcomer)
{
	if (waiting.lookup(&netns_cookie))
		return;
	waiting.update(&netns_cookie, newcomer);
	wake_ups.ringbuf_output(&netns_cookie, sizeof(netns_cookie), 0);
}

static __always_inline void announce_packet(__u64 netns_cookie)
{
	struct newcomer nobody = {};

	announce(netns_cookie, &nobody);
}

/* Also of known namespaces: one that becomes unknown takes nothing on sockets from before. */
static __always_inline int note_namespace(struct bpf_sock *sk, __u64 netns_cookie)
{
	__u64 *kept = made_in.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!kept) {
		count(COUNTER_REFUSED_STORAGE);
		return REFUSE;
	}
	*kept = netns_cookie;
	return PROCEED;
}

int guard_socket(struct bpf_sock *sk)
{
	__u64 netns_cookie = bpf_get_netns_cookie(sk);
	struct newcomer newcomer = {};

	if (is_unknown(netns_cookie)) {
		newcomer.cgroup_id = bpf_get_current_cgroup_id();
		newcomer.pid = bpf_get_current_pid_tgid() >> 32;
		announce(netns_cookie, &newcomer);
		if (sk->protocol == PROTOCOL_MPTCP) {
			count(COUNTER_REFUSED_MPTCP);
			return REFUSE; /* its connect passes no hook, neither now nor when it is enrolled */
		}
	}
	return sk->protocol == PROTOCOL_TCP ? note_namespace(sk, netns_cookie) : PROCEED;
}

/* Let TCP try often, and for about two minutes. */
static __always_inline void try_often(struct bpf_sock_addr *ctx)
{
	int longest = HELD_LONGEST_RETRY_MS, retries = HELD_RETRIES;

	if (bpf_setsockopt(ctx, LEVEL_TCP, OPTION_RTO_MAX_MS, &longest, sizeof(longest)))
		retries = HELD_RETRIES_GROWING;
	bpf_setsockopt(ctx, LEVEL_TCP, OPTION_SYN_COUNT, &retries, sizeof(retries));
}

static __always_inline int hold_connection(struct bpf_sock_addr *ctx,
					   struct original_destination *destination, __u64 netns_cookie)
{
	announce_packet(netns_cookie);
	if (!keep_destination(ctx, destination, netns_cookie) || !unbind_link(ctx))
		return REFUSE;
	try_often(ctx);
	count(COUNTER_HELD_CONNECTIONS);
	return PROCEED;
}

int guard_connect_ipv4(struct bpf_sock_addr *ctx)
{
	__u64 netns_cookie = bpf_get_netns_cookie(ctx);
	struct original_destination destination = {};

	if (!is_unknown(netns_cookie))
		return PROCEED;
	connected_to.sk_storage_delete(ctx->sk);
	address_from_ipv4(destination.address, ctx->user_ip4);
	destination.port = ctx->user_port;
	if (!is_captured(ctx, &destination, is_everything_held()))
		return PROCEED;
	if (!hold_connection(ctx, &destination, netns_cookie))
		return REFUSE;
	ctx->user_ip4 = IPV4_LOOPBACK;
	ctx->user_port = bpf_htons(OUTBOUND_PORT);
	return PROCEED;
}

int guard_connect_ipv6(struct bpf_sock_addr *ctx)
{
	__u64 netns_cookie = bpf_get_netns_cookie(ctx);
	struct original_destination destination = {};

	if (!is_unknown(netns_cookie))
		return PROCEED;
	connected_to.sk_storage_delete(ctx->sk);
	address_from_words(destination.address, ctx->user_ip6[0], ctx->user_ip6[1],
			   ctx->user_ip6[2], ctx->user_ip6[3]);
	destination.port = ctx->user_port;
	if (!is_captured(ctx, &destination, is_everything_held()))
		return PROCEED;
	if (!hold_connection(ctx, &destination, netns_cookie))
		return REFUSE;
	redirect_ipv6(ctx, &destination);
	return PROCEED;
}

int guard_egress(struct __sk_buff *skb)
{
	struct original_destination destination = {};
	struct bpf_sock *sk = skb->sk;
	struct connection *kept;
	struct flow flow = {};

	if (!sk || sk->state != STATE_SYN_SENT)
		return PROCEED;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return PROCEED;
	kept = connected_to.sk_storage_get(sk, 0, 0);
	if (!kept || !kept->held_in)
		return PROCEED;
	flow.netns_cookie = kept->held_in;
	if (is_unknown(flow.netns_cookie)) {
		announce_packet(flow.netns_cookie);
		return REFUSE;
	}
	end_of_socket(sk, &flow);
	__builtin_memcpy(destination.address, kept->address, 16);
	destination.port = kept->port;
	if (pending_flows.update(&flow, &destination)) {
		count(COUNTER_REFUSED_FLOW);
		return REFUSE;
	}
	return PROCEED;
}

int guard_ingress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	__u64 *netns_cookie;

	if (!sk || sk->state != STATE_LISTEN || skb->ifindex == LOOPBACK_IFINDEX)
		return PROCEED;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return PROCEED;
	netns_cookie = made_in.sk_storage_get(sk, 0, 0);
	if (!netns_cookie || !is_unknown(*netns_cookie))
		return PROCEED;
	announce_packet(*netns_cookie);
	count(COUNTER_HELD_ARRIVALS);
	return REFUSE;
}

/*
 * Attached for a while to a namespace that was found to be outside: hands
 * connections that were held to the agent's listener, and no others, whoever
 * listens on the proxy's port in there.
 */
int steer_held(struct bpf_sk_lookup *ctx)
{
	struct flow flow = {};
	struct bpf_sock *listener;
	__u64 *netns_cookie;
	int zero = 0, slot, failed;

	if (ctx->protocol != PROTOCOL_TCP || ctx->local_port != OUTBOUND_PORT)
		return SK_PASS;
	netns_cookie = this_namespace.lookup(&zero);
	if (!netns_cookie)
		return SK_PASS;
	flow.netns_cookie = *netns_cookie;
	flow.client_port = bpf_ntohs(ctx->remote_port);
	remote_address(ctx, flow.client_address);
	if (!pending_flows.lookup(&flow))
		return SK_PASS;
	slot = ctx->family == FAMILY_INET ? LISTENER_PLAINTEXT_IPV4 : LISTENER_PLAINTEXT_IPV6;
	listener = inbound_listeners.lookup(&slot);
	if (!listener)
		return SK_DROP;
	failed = bpf_sk_assign(ctx, listener, 0);
	bpf_sk_release(listener);
	return failed ? SK_DROP : SK_PASS;
}
