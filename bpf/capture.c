// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Traffic capture.  Theory of operation:
 *
 * Outbound.  connect_ipv4 / connect_ipv6 see connect(2) of every process below
 * the cgroup.  If the caller's network namespace is enrolled and the
 * destination is captured, they keep the destination in the socket's own
 * storage (`connected_to`) and rewrite it to the proxy's listener on the
 * namespace's loopback.  A destination is captured inside `captured_prefixes`;
 * of a namespace that an egress policy selects (`captures_everything`), every
 * one is that TCP could reach elsewhere.  track_flows runs just before the SYN leaves, when the
 * local port is known: it files the destination under the client's end of the
 * connection (`pending_flows`).  On the same packet's way in, it moves it to
 * the storage of the accepted socket (`accepted_for`), where
 * answer_original_destination finds it.  So an entry of `pending_flows` lives
 * for one handshake, and the rest goes with the sockets.
 *
 * Inbound.  steer_inbound is loaded once for each network namespace with that
 * namespace's own `inbound_listeners` and `local_addresses`, and attached to it.
 * It runs for a SYN that arrived over a link and picks the proxy's socket.
 *
 * All of it runs once for a connection, never for a packet.  Whatever goes
 * wrong refuses the connection: nothing here lets one through unchanged once it
 * is known to be captured.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in6.h>

#include "abi.h"
#include "net_helpers.h"

/* Enrolled network namespaces, by netns cookie. */
BPF_HASH(workloads, __u64, struct workload_entry, MAX_WORKLOADS);
/* Destinations inside these prefixes are captured, of every workload. */
BPF_LPM_TRIE(captured_prefixes, struct prefix, __u8, MAX_CAPTURED_PREFIXES);
/* A workload that connects to itself stays on its loopback: untouched. */
BPF_HASH(own_addresses, struct own_address, __u8, MAX_OWN_ADDRESSES);
/* Handshakes of captured connections that are under way. */
BPF_TABLE("lru_hash", struct flow, struct original_destination, pending_flows, MAX_PENDING_FLOWS);
/*
 * Socket storage that outlives the programs: what is held while no agent runs is
 * served by the next one.  Who makes the maps first pins them; those who come
 * later compile with KEPT_AS, the path of the pins up to the map's name.  So the
 * layout of a value never changes: another one is another map.
 */
#ifdef KEPT_AS
#define KEPT(name) ":" KEPT_AS name
#else
#define KEPT(name) ""
#endif
#define BPF_KEPT_SK_STORAGE(_name, _leaf_type)                                         \
	struct _name##_table_t {                                                       \
		int key;                                                               \
		_leaf_type leaf;                                                       \
		void *(*sk_storage_get)(void *, void *, int);                          \
		int (*sk_storage_delete)(void *);                                      \
		u32 flags;                                                             \
	};                                                                             \
	__attribute__((section("maps/sk_storage" KEPT(#_name))))                       \
	struct _name##_table_t _name = { .flags = BPF_F_NO_PREALLOC };                 \
	BPF_ANNOTATE_KV_PAIR(_name, int, _leaf_type)

/* On an application's socket: where it meant to connect. */
BPF_KEPT_SK_STORAGE(connected_to, struct connection);
/* On a TCP socket that was made in an unknown namespace: the netns cookie. */
BPF_KEPT_SK_STORAGE(made_in, __u64);
/* On a socket that the proxy accepted: the same. */
BPF_SK_STORAGE(accepted_for, struct original_destination);
/*
 * On the proxy's own sockets: do not capture.  The agent writes it with the
 * map's and the socket's descriptors; a pod has no way to the map, whatever
 * mark, user or cgroup it takes on.
 */
BPF_SK_STORAGE(proxy_sockets, __u8);
/* The addresses of one namespace, for steer_inbound, which is told no cookie. */
BPF_HASH(local_addresses, struct address, __u8, MAX_LOCAL_ADDRESSES);
/* Network namespaces that are known, and not enrolled, by netns cookie. */
BPF_HASH(outside, __u64, __u8, MAX_OUTSIDE);
/* Unknown ones that were seen.  One that is not in here any more is put in again
 * by its next packet. */
BPF_TABLE("lru_hash", __u64, struct newcomer, waiting, MAX_WAITING);
/* Wakes the agent when there is a new one in `waiting`. */
BPF_RINGBUF_OUTPUT(wake_ups, 1);
/* The cookie of one namespace, for steer_held, which is told none. */
BPF_ARRAY(this_namespace, __u64, 1);
/* Where the kubelet may connect to. */
BPF_HASH(probe_targets, struct probe_target, __u8, MAX_PROBE_TARGETS);
/* Probes that the kubelet's processes have begun, until they are answered. */
BPF_TABLE("lru_hash", struct probe_flow, __u8, probe_flows, MAX_PROBE_FLOWS);
BPF_PERCPU_ARRAY(counters, __u64, COUNTER_COUNT);

/* bcc knows no socket lookup on a sockmap; declared by hand it compiles. */
struct inbound_listeners_table {
	int key;
	__u32 leaf;
	struct bpf_sock *(*lookup)(int *);
	int (*update)(int *, __u32 *);
	int (*delete)(int *);
	__u32 max_entries;
	int flags;
};
__attribute__((section("maps/sockmap")))
struct inbound_listeners_table inbound_listeners = { .max_entries = LISTENER_SLOTS };

#define REFUSE 0
#define PROCEED 1

static __always_inline void count(int index)
{
	__u64 *counter = counters.lookup(&index);

	if (counter)
		*counter += 1;
}

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
	flow.netns_cookie = bpf_get_netns_cookie(ops);
	if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		if (ops->remote_port == bpf_htonl(OUTBOUND_PORT))
			flow_begins(ops, sk, &flow);
	} else if (ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		if (ops->local_port == OUTBOUND_PORT)
			flow_accepted(ops, sk, &flow);
		else if (sk->mark == RETURN_PATH_MARK && workloads.lookup(&flow.netns_cookie))
			keep_on_loopback(ops);
	} else if (ops->op == BPF_SOCK_OPS_STATE_CB && ops->args[1] == BPF_TCP_CLOSE) {
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

/*
 * Held until it is known.
 *
 * The guard_* programs are attached to the cgroup below which pods are made.  A
 * network namespace there that is neither enrolled nor outside is unknown, and
 * waits: connect(2) is sent to the proxy's loopback listener as if it were
 * enrolled, and its SYN is dropped until the namespace is known, so that TCP
 * itself is what waits.  Then the next SYN passes, and reaches the proxy of the
 * workload, or for a namespace that is outside a listener that carries it on in
 * plaintext (steer_held).  What arrives over a link at a socket that was made in an
 * unknown namespace is dropped in the same way.
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

int guard_socket(struct bpf_sock *sk)
{
	__u64 netns_cookie = bpf_get_netns_cookie(sk), *kept;
	struct newcomer newcomer = {};

	if (!is_unknown(netns_cookie))
		return PROCEED;
	newcomer.cgroup_id = bpf_get_current_cgroup_id();
	newcomer.pid = bpf_get_current_pid_tgid() >> 32;
	announce(netns_cookie, &newcomer);
	if (sk->protocol == PROTOCOL_MPTCP) {
		count(COUNTER_REFUSED_MPTCP);
		return REFUSE; /* its connect passes no hook, neither now nor when it is enrolled */
	}
	if (sk->protocol != PROTOCOL_TCP)
		return PROCEED;
	kept = made_in.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!kept) {
		count(COUNTER_REFUSED_STORAGE);
		return REFUSE;
	}
	*kept = netns_cookie;
	return PROCEED;
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

int steer_inbound(struct bpf_sk_lookup *ctx)
{
	struct address remote = {};
	struct bpf_sock *listener;
	int slot, is_tunnel, failed;

	if (ctx->protocol != PROTOCOL_TCP)
		return SK_PASS; /* UDP is not the mesh's */
	if (ctx->ingress_ifindex == LOOPBACK_IFINDEX)
		return SK_PASS; /* the workload with itself, or the proxy to the application */
	/* IPv6 names the link that has the address although the packet came over
	 * loopback.  Nobody outside can connect from one of our own addresses: the
	 * answer would never leave. */
	remote_address(ctx, remote.bytes);
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
