/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The two ends of a connection, as each kind of context has them.  No map call here, as in net_helpers.h. */
#ifndef INTERCEPTOR_ENDS_H
#define INTERCEPTOR_ENDS_H

#include "net_helpers.h"

/*
 * The client's end of a connection to the proxy: the local end as the client
 * sees it, the remote end as the proxy's accepted socket sees it.  All fields
 * are read before any is chosen, or LLVM would choose between pointers into the
 * context, which the verifier refuses.
 */
static __always_inline void local_end(struct bpf_sock_ops *ops, struct flow *flow)
{
	__u32 family = ops->family, ipv4 = ops->local_ip4;
	__u32 a = ops->local_ip6[0], b = ops->local_ip6[1], c = ops->local_ip6[2], d = ops->local_ip6[3];

	asm volatile("" : "+r"(ipv4), "+r"(a), "+r"(b), "+r"(c), "+r"(d));
	flow->client_port = ops->local_port;
	if (family == FAMILY_INET)
		address_from_ipv4(flow->client_address, ipv4);
	else
		address_from_words(flow->client_address, a, b, c, d);
}

static __always_inline void remote_end(struct bpf_sock_ops *ops, struct flow *flow)
{
	__u32 family = ops->family, ipv4 = ops->remote_ip4;
	__u32 a = ops->remote_ip6[0], b = ops->remote_ip6[1], c = ops->remote_ip6[2], d = ops->remote_ip6[3];

	asm volatile("" : "+r"(ipv4), "+r"(a), "+r"(b), "+r"(c), "+r"(d));
	flow->client_port = bpf_ntohl(ops->remote_port);
	if (family == FAMILY_INET)
		address_from_ipv4(flow->client_address, ipv4);
	else
		address_from_words(flow->client_address, a, b, c, d);
}

/* Both ends of a connection that is begun here. */
static __always_inline void both_ends(struct bpf_sock_ops *ops, struct ends *ends)
{
	struct flow end = {};

	local_end(ops, &end);
	__builtin_memcpy(ends->client_address, end.client_address, 16);
	ends->client_port = end.client_port;
	remote_end(ops, &end);
	__builtin_memcpy(ends->target_address, end.client_address, 16);
	ends->target_port = end.client_port;
}

/* The same of one that was accepted here. */
static __always_inline void both_ends_of_accepted(struct bpf_sock_ops *ops, struct ends *ends)
{
	struct flow end = {};

	remote_end(ops, &end);
	__builtin_memcpy(ends->client_address, end.client_address, 16);
	ends->client_port = end.client_port;
	local_end(ops, &end);
	__builtin_memcpy(ends->target_address, end.client_address, 16);
	ends->target_port = end.client_port;
}

static __always_inline void end_of_socket(struct bpf_sock *sk, struct flow *flow)
{
	__u32 family = sk->family, ipv4 = sk->src_ip4;
	__u32 a = sk->src_ip6[0], b = sk->src_ip6[1], c = sk->src_ip6[2], d = sk->src_ip6[3];

	asm volatile("" : "+r"(ipv4), "+r"(a), "+r"(b), "+r"(c), "+r"(d)); /* as in local_end */
	flow->client_port = sk->src_port;
	if (family == FAMILY_INET)
		address_from_ipv4(flow->client_address, ipv4);
	else
		address_from_words(flow->client_address, a, b, c, d);
}

/* The ends of a connection that arrives; read as in local_end. */
static __always_inline void remote_address(struct bpf_sk_lookup *ctx, __u8 *address)
{
	__u32 family = ctx->family, ipv4 = ctx->remote_ip4;
	__u32 a = ctx->remote_ip6[0], b = ctx->remote_ip6[1], c = ctx->remote_ip6[2], d = ctx->remote_ip6[3];

	asm volatile("" : "+r"(ipv4), "+r"(a), "+r"(b), "+r"(c), "+r"(d));
	if (family == FAMILY_INET)
		address_from_ipv4(address, ipv4);
	else
		address_from_words(address, a, b, c, d);
}

static __always_inline void local_address(struct bpf_sk_lookup *ctx, __u8 *address)
{
	__u32 family = ctx->family, ipv4 = ctx->local_ip4;
	__u32 a = ctx->local_ip6[0], b = ctx->local_ip6[1], c = ctx->local_ip6[2], d = ctx->local_ip6[3];

	asm volatile("" : "+r"(ipv4), "+r"(a), "+r"(b), "+r"(c), "+r"(d));
	if (family == FAMILY_INET)
		address_from_ipv4(address, ipv4);
	else
		address_from_words(address, a, b, c, d);
}

static __always_inline void arriving_ends(struct bpf_sk_lookup *ctx, struct address *remote, struct ends *ends)
{
	__builtin_memcpy(ends->client_address, remote->bytes, 16);
	ends->client_port = bpf_ntohs(ctx->remote_port);
	local_address(ctx, ends->target_address);
	ends->target_port = ctx->local_port;
}

#endif
