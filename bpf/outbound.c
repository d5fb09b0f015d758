// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* What a workload connects to: redirected to the proxy. */
static __always_inline int is_captured(struct bpf_sock_addr *ctx, struct original_destination *destination,
				       __u8 captures_everything)
{
	struct prefix prefix = { .length = 128 };

	if (is_loopback(destination->address))
		return 0;
	if (ctx->protocol != PROTOCOL_TCP)
		return 0; /* UDP is not the mesh's; MPTCP could not be created */
	if (captures_everything)
		return 1;
	__builtin_memcpy(prefix.address, destination->address, 16);
	return captured_prefixes.lookup(&prefix) != 0;
}

static __always_inline struct workload_entry *
capturing_workload(struct bpf_sock_addr *ctx, struct original_destination *destination)
{
	struct own_address own = {};
	struct workload_entry *workload;

	own.netns_cookie = bpf_get_netns_cookie(ctx);
	workload = workloads.lookup(&own.netns_cookie);
	if (!workload || !is_captured(ctx, destination, workload->captures_everything))
		return 0;
	__builtin_memcpy(own.address, destination->address, 16);
	if (own_addresses.lookup(&own))
		return 0;
	if (proxy_sockets.sk_storage_get(ctx->sk, 0, 0))
		return 0;
	return workload;
}

static __always_inline int keep_destination(struct bpf_sock_addr *ctx,
					    struct original_destination *destination, __u64 held_in)
{
	struct connection *kept =
		connected_to.sk_storage_get(ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!kept) {
		count(COUNTER_REFUSED_STORAGE);
		return REFUSE;
	}
	__builtin_memcpy(kept->address, destination->address, 16);
	kept->port = destination->port;
	kept->held_in = held_in;
	return PROCEED;
}

/*
 * The connection is not captured.  A socket that is connected again, elsewhere,
 * is no longer ours; but one on its way to the proxy's port that is held was sent
 * there just now, by guard_connect_*, which runs before.
 */
static __always_inline void leave_alone(struct bpf_sock_addr *ctx,
					struct original_destination *destination)
{
	struct connection *kept = connected_to.sk_storage_get(ctx->sk, 0, 0);

	if (!kept)
		return;
	if (kept->held_in && destination->port == bpf_htons(OUTBOUND_PORT) &&
	    is_loopback(destination->address))
		return;
	connected_to.sk_storage_delete(ctx->sk);
}

/* An application may have bound its socket to a link ("curl --interface eth0"),
 * by which the proxy's loopback listener cannot be reached: the SYN would leave
 * by that link.  The kernel unbinds for programs with CAP_NET_RAW only. */
static __always_inline int unbind_link(struct bpf_sock_addr *ctx)
{
	char none[1] = "";

	if (!ctx->sk->bound_dev_if ||
	    !bpf_setsockopt(ctx, LEVEL_SOCKET, OPTION_BIND_TO_DEVICE, none, sizeof(none)))
		return PROCEED;
	count(COUNTER_REFUSED_LINK);
	return REFUSE;
}

static __always_inline void bind_ipv4_source(struct bpf_sock_addr *ctx, struct workload_entry *workload)
{
	struct sockaddr_in source = { .sin_family = FAMILY_INET };

	/* Without this, getsockname(2) would say 127.0.0.1.  It fails, as it
	 * should, when the application has bound the socket itself. */
	source.sin_addr.s_addr = address_word(workload->ipv4_source, 3);
	if (source.sin_addr.s_addr)
		bpf_bind(ctx, (struct sockaddr *)&source, sizeof(source));
}

int connect_ipv4(struct bpf_sock_addr *ctx)
{
	struct original_destination destination = {};
	struct workload_entry *workload;

	tell_namespace(ctx);
	address_from_ipv4(destination.address, ctx->user_ip4);
	destination.port = ctx->user_port;
	workload = capturing_workload(ctx, &destination);
	if (!workload) {
		leave_alone(ctx, &destination);
		return PROCEED;
	}
	if (!keep_destination(ctx, &destination, 0) || !unbind_link(ctx))
		return REFUSE;
	bind_ipv4_source(ctx, workload);
	ctx->user_ip4 = IPV4_LOOPBACK;
	ctx->user_port = bpf_htons(OUTBOUND_PORT);
	count(COUNTER_CAPTURED_IPV4);
	return PROCEED;
}

static __always_inline void redirect_ipv6(struct bpf_sock_addr *ctx, struct original_destination *destination)
{
	if (is_ipv4_mapped(destination->address)) {
		ctx->user_ip6[2] = IPV4_MAPPED_MARK;
		ctx->user_ip6[3] = IPV4_LOOPBACK;
	} else {
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = 0;
		ctx->user_ip6[3] = bpf_htonl(1);
	}
	ctx->user_port = bpf_htons(OUTBOUND_PORT);
}

int connect_ipv6(struct bpf_sock_addr *ctx)
{
	struct original_destination destination = {};
	struct workload_entry *workload;
	struct sockaddr_in6 source = { .sin6_family = FAMILY_INET6 };

	tell_namespace(ctx);
	address_from_words(destination.address, ctx->user_ip6[0], ctx->user_ip6[1],
			   ctx->user_ip6[2], ctx->user_ip6[3]);
	destination.port = ctx->user_port;
	workload = capturing_workload(ctx, &destination);
	if (!workload) {
		leave_alone(ctx, &destination);
		return PROCEED;
	}
	if (!keep_destination(ctx, &destination, 0) || !unbind_link(ctx))
		return REFUSE;
	if (is_ipv4_mapped(destination.address))
		__builtin_memcpy(&source.sin6_addr, workload->ipv4_source, 16);
	else
		__builtin_memcpy(&source.sin6_addr, workload->ipv6_source, 16);
	if (!is_unset((__u8 *)&source.sin6_addr))
		bpf_bind(ctx, (struct sockaddr *)&source, sizeof(source));
	redirect_ipv6(ctx, &destination);
	count(COUNTER_CAPTURED_IPV6);
	return PROCEED;
}

int peer_name_ipv4(struct bpf_sock_addr *ctx)
{
	struct connection *kept = connected_to.sk_storage_get(ctx->sk, 0, 0);

	if (kept) {
		ctx->user_ip4 = address_word(kept->address, 3);
		ctx->user_port = kept->port;
	}
	return PROCEED;
}

int peer_name_ipv6(struct bpf_sock_addr *ctx)
{
	struct connection *kept = connected_to.sk_storage_get(ctx->sk, 0, 0);

	if (kept) {
		ctx->user_ip6[0] = address_word(kept->address, 0);
		ctx->user_ip6[1] = address_word(kept->address, 1);
		ctx->user_ip6[2] = address_word(kept->address, 2);
		ctx->user_ip6[3] = address_word(kept->address, 3);
		ctx->user_port = kept->port;
	}
	return PROCEED;
}

/* bpf_bind fails when the application has chosen a port itself, but no address:
 * the kernel then chose that of loopback, by which the proxy is reached. */
static __always_inline struct workload_entry *workload_on_loopback(struct bpf_sock_addr *ctx)
{
	__u64 netns_cookie;

	if (!connected_to.sk_storage_get(ctx->sk, 0, 0))
		return 0;
	netns_cookie = bpf_get_netns_cookie(ctx);
	return workloads.lookup(&netns_cookie);
}

int own_name_ipv4(struct bpf_sock_addr *ctx)
{
	struct workload_entry *workload;

	if (ctx->user_ip4 != IPV4_LOOPBACK)
		return PROCEED;
	workload = workload_on_loopback(ctx);
	if (workload && !is_unset(workload->ipv4_source))
		ctx->user_ip4 = address_word(workload->ipv4_source, 3);
	return PROCEED;
}

int own_name_ipv6(struct bpf_sock_addr *ctx)
{
	struct workload_entry *workload;
	__u8 own[16], *source;

	address_from_words(own, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]);
	if (!is_loopback(own))
		return PROCEED;
	workload = workload_on_loopback(ctx);
	if (!workload)
		return PROCEED;
	source = is_ipv4_mapped(own) ? workload->ipv4_source : workload->ipv6_source;
	if (is_unset(source))
		return PROCEED;
	ctx->user_ip6[0] = address_word(source, 0);
	ctx->user_ip6[1] = address_word(source, 1);
	ctx->user_ip6[2] = address_word(source, 2);
	ctx->user_ip6[3] = address_word(source, 3);
	return PROCEED;
}

/* Multipath TCP connects without passing connect_ipv4/6: an enrolled workload
 * may not have such a socket; programs fall back to TCP. */
int refuse_multipath(struct bpf_sock *sk)
{
	__u64 netns_cookie;

	if (sk->protocol != PROTOCOL_MPTCP)
		return PROCEED;
	netns_cookie = bpf_get_netns_cookie(sk);
	if (!workloads.lookup(&netns_cookie))
		return PROCEED;
	count(COUNTER_REFUSED_MPTCP);
	return REFUSE;
}
