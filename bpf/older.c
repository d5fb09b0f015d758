// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What kernels before Linux 5.17 do not tell their programs, found out otherwise.
 *
 * sk_lookup is not told the link that a SYN came over (ingress_ifindex, 5.17).
 * So the proxy's connections to applications are filed for as long as they live
 * (`relayed`), and steer_inbound lets pass what has the ends of one of them.  A
 * packet from a link that pretends to be one of them passes it as well;
 * refuse_disguised is handed the packet together with its link, before the
 * listening socket has answered anything, and drops it.
 *
 * sock_ops is not told the network namespace (bpf_get_netns_cookie, 5.15).  So
 * connect(2) notes it with each socket (`namespace_of`), and the agent with the
 * proxy's listeners, from which the kernel copies it to the sockets they accept.
 */
#ifdef OLDER_KERNEL

/* A network namespace's cookie, with a socket that connects, or that a listener of the proxy accepted. */
struct namespace_of_table_t {
	int key;
	__u64 leaf;
	void *(*sk_storage_get)(void *, void *, int);
	int (*sk_storage_delete)(void *);
	u32 flags;
};
__attribute__((section("maps/sk_storage" KEPT("namespace_of"))))
struct namespace_of_table_t namespace_of = { .flags = BPF_F_NO_PREALLOC | BPF_F_CLONE };
BPF_ANNOTATE_KV_PAIR(namespace_of, int, __u64);

/* Both ends of the proxy's connections to applications, as their clients. */
BPF_F_TABLE("lru_hash" KEPT("relayed"), struct ends, __u8, relayed, MAX_RELAYED, 0);

#define MAX_EXTENSION_HEADERS 6
#define HEADER_AUTHENTICATION 51 /* the one that counts its length otherwise (RFC 4302) */

static __always_inline void tell_namespace(struct bpf_sock_addr *ctx)
{
	__u64 *noted;

	if (ctx->protocol != PROTOCOL_TCP)
		return;
	noted = namespace_of.sk_storage_get(ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (noted)
		*noted = bpf_get_netns_cookie(ctx);
	else
		count(COUNTER_REFUSED_STORAGE); /* if it is captured, the proxy refuses it: no destination */
}

static __always_inline __u64 namespace_of_socket(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	__u64 *noted = namespace_of.sk_storage_get(sk, 0, 0);

	return noted ? *noted : STRANGERS;
}

/* Whether this is the proxy's end of a connection to an application, whose client's
 * address it borrows.  Nobody else can have `proxy_sockets`. */
static __always_inline int is_relay(struct bpf_sock *sk)
{
	return sk->bound_dev_if == LOOPBACK_IFINDEX && proxy_sockets.sk_storage_get(sk, 0, 0);
}

static __always_inline void relay_begins(struct bpf_sock_ops *ops)
{
	struct ends ends = {};
	__u8 present = 1;

	both_ends(ops, &ends);
	if (relayed.update(&ends, &present))
		count(COUNTER_REFUSED_FLOW); /* it is steered to the proxy, as from a stranger */
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void relay_ended(struct bpf_sock_ops *ops)
{
	struct ends ends = {};

	both_ends(ops, &ends);
	relayed.delete(&ends);
}

/* Whether an application has accepted a connection of the proxy's. */
static __always_inline int is_of_relay(struct bpf_sock_ops *ops, __u64 netns_cookie)
{
	struct ends ends = {};

	both_ends_of_accepted(ops, &ends);
	return relayed.lookup(&ends) != 0;
}

/* Whether a SYN may have come over loopback: from the proxy, or from a loopback address. */
static __always_inline int is_from_within(struct bpf_sk_lookup *ctx, struct address *remote)
{
	struct ends ends = {};

	if (is_loopback(remote->bytes))
		return 1;
	arriving_ends(ctx, remote, &ends);
	return relayed.lookup(&ends) != 0;
}

static __always_inline int ends_of_ipv4(struct __sk_buff *skb, struct ends *ends, __u32 *offset)
{
	__u8 first;
	__be32 addresses[2];

	if (bpf_skb_load_bytes(skb, 0, &first, sizeof(first)) ||
	    bpf_skb_load_bytes(skb, 12, addresses, sizeof(addresses)))
		return 0;
	address_from_ipv4(ends->client_address, addresses[0]);
	address_from_ipv4(ends->target_address, addresses[1]);
	*offset = (first & 15) * 4;
	return 1;
}

static __always_inline int ends_of_ipv6(struct __sk_buff *skb, struct ends *ends, __u32 *offset)
{
	__u8 header[2]; /* number of the next one, own length */
	int i;

	if (bpf_skb_load_bytes(skb, 6, header, 1) ||
	    bpf_skb_load_bytes(skb, 8, ends->client_address, 16) ||
	    bpf_skb_load_bytes(skb, 24, ends->target_address, 16))
		return 0;
	*offset = 40;
#pragma unroll
	for (i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		__u8 kind = header[0];

		if (kind == PROTOCOL_TCP)
			return 1;
		if (bpf_skb_load_bytes(skb, *offset, header, sizeof(header)))
			return 0;
		*offset += kind == HEADER_AUTHENTICATION ? (header[1] + 2) * 4 : (header[1] + 1) * 8;
	}
	return header[0] == PROTOCOL_TCP;
}

/* Handed every packet to any process, and looks at the socket's state and the link
 * only, unless it is a connection's first from outside. */
int refuse_disguised(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct ends ends = {};
	__be16 ports[2];
	__u32 offset = 0;
	int known;

	if (!sk || sk->state != STATE_LISTEN || skb->ifindex == LOOPBACK_IFINDEX)
		return PROCEED;
	if (skb->protocol == bpf_htons(ETHER_TYPE_IPV4))
		known = ends_of_ipv4(skb, &ends, &offset);
	else
		known = ends_of_ipv6(skb, &ends, &offset);
	if (!known || bpf_skb_load_bytes(skb, offset, ports, sizeof(ports))) {
		count(COUNTER_REFUSED_DISGUISED);
		return REFUSE; /* more headers than anybody sends: whose it is cannot be said */
	}
	ends.client_port = bpf_ntohs(ports[0]);
	ends.target_port = bpf_ntohs(ports[1]);
	if (!relayed.lookup(&ends))
		return PROCEED;
	count(COUNTER_REFUSED_DISGUISED);
	return REFUSE;
}

#else

static __always_inline void tell_namespace(struct bpf_sock_addr *ctx) {}

static __always_inline __u64 namespace_of_socket(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	return bpf_get_netns_cookie(ops);
}

static __always_inline int is_relay(struct bpf_sock *sk) { return 0; }
static __always_inline void relay_begins(struct bpf_sock_ops *ops) {}
static __always_inline void relay_ended(struct bpf_sock_ops *ops) {}

static __always_inline int is_of_relay(struct bpf_sock_ops *ops, __u64 netns_cookie)
{
	return workloads.lookup(&netns_cookie) != 0;
}

/* The workload with itself, or the proxy to the application. */
static __always_inline int is_from_within(struct bpf_sk_lookup *ctx, struct address *remote)
{
	return ctx->ingress_ifindex == LOOPBACK_IFINDEX;
}

#endif
