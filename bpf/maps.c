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
 * All of it runs once for a connection, never for a packet (but for guard.c).
 * Whatever goes wrong refuses the connection: nothing here lets one through
 * unchanged once it is known to be captured.
 *
 * The files are compiled as one, in this order: maps.c, older.c, outbound.c,
 * flows.c, guard.c, probes.c, inbound.c.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in6.h>

#include "abi.h"
#include "ends.h"
#include "net_helpers.h"

/* Enrolled network namespaces, by netns cookie. */
BPF_HASH(workloads, __u64, struct workload_entry, MAX_WORKLOADS);
/* Destinations inside these prefixes are captured, of every workload. */
BPF_LPM_TRIE(captured_prefixes, struct prefix, __u8, MAX_CAPTURED_PREFIXES);
/* A workload that connects to itself stays on its loopback: untouched. */
BPF_HASH(own_addresses, struct own_address, __u8, MAX_OWN_ADDRESSES);
/*
 * Maps that an agent lends its successor, when it hands the node over: a handshake
 * that began under the programs of the one may be accepted under those of the
 * other, and by either of them; each knows the other's sockets.  They are pinned
 * below LENT_AS only while the successor's programs are compiled.  What is said of
 * the layout of kept ones (below) holds for these too.
 */
#ifdef LENT_AS
#define LENT(name) ":" LENT_AS name
#else
#define LENT(name) ""
#endif
/* Handshakes of captured connections that are under way. */
BPF_TABLE("lru_hash" LENT("pending_flows"), struct flow, struct original_destination, pending_flows,
	  MAX_PENDING_FLOWS);
/*
 * What outlives the programs, most of it socket storage: what is held while no agent
 * runs is served by the next one.  Who makes the maps first pins them; those who come
 * later compile with KEPT_AS, the path of the pins up to the map's name.  So the
 * layout of a value never changes: another one is another map.
 */
#ifdef KEPT_AS
#define KEPT(name) ":" KEPT_AS name
#else
#define KEPT(name) ""
#endif
#define BPF_FOUND_SK_STORAGE(_name, _leaf_type, _pin)                                  \
	struct _name##_table_t {                                                       \
		int key;                                                               \
		_leaf_type leaf;                                                       \
		void *(*sk_storage_get)(void *, void *, int);                          \
		int (*sk_storage_delete)(void *);                                      \
		u32 flags;                                                             \
	};                                                                             \
	__attribute__((section("maps/sk_storage" _pin)))                               \
	struct _name##_table_t _name = { .flags = BPF_F_NO_PREALLOC };                 \
	BPF_ANNOTATE_KV_PAIR(_name, int, _leaf_type)

/* On an application's socket: where it meant to connect. */
BPF_FOUND_SK_STORAGE(connected_to, struct connection, KEPT("connected_to"));
/* On a TCP socket that was made below the pods' cgroup: the netns cookie. */
BPF_FOUND_SK_STORAGE(made_in, __u64, KEPT("made_in"));
/* On a socket that the proxy accepted: the same. */
BPF_FOUND_SK_STORAGE(accepted_for, struct original_destination, LENT("accepted_for"));
/*
 * On the proxy's own sockets: do not capture.  The agent writes it with the
 * map's and the socket's descriptors; a pod has no way to the map, whatever
 * mark, user or cgroup it takes on.
 */
BPF_FOUND_SK_STORAGE(proxy_sockets, __u8, LENT("proxy_sockets"));
/* The addresses of one namespace, for steer_inbound, which is told no cookie. */
BPF_HASH(local_addresses, struct address, __u8, MAX_LOCAL_ADDRESSES);
/*
 * Network namespaces that are known, and not enrolled, by netns cookie.  Kept, so that
 * an agent can let go what an earlier one's programs hold before its own are in force.
 */
BPF_TABLE("hash" KEPT("outside"), __u64, __u8, outside, MAX_OUTSIDE);
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
BPF_TABLE("lru_hash" LENT("probe_flows"), struct ends, __u8, probe_flows, MAX_PROBE_FLOWS);
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
