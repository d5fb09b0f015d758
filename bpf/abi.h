/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the BPF programs and the agent agree on: structs, constants, counters.
 *
 * Only fixed-width __uNN types and explicit padding, so that the host's C
 * compiler lays the structs out as clang's BPF target does.  The one mirror is
 * interceptor/kernel/abi.py; tests/kernel/test_abi.py compares every size,
 * offset and constant of the two.
 *
 * Addresses are always 16 bytes in network order; IPv4 is IPv4-mapped
 * (::ffff:a.b.c.d, RFC 4291 section 2.5.5.2), so one map serves both families.
 */
#ifndef INTERCEPTOR_ABI_H
#define INTERCEPTOR_ABI_H

#include <linux/types.h>

#define ABI_VERSION 2

/* Ports that the proxy listens on inside every enrolled network namespace. */
#define OUTBOUND_PORT 15001
#define INBOUND_PLAINTEXT_PORT 15006
#define INBOUND_TUNNEL_PORT 15008

/* On the proxy's connections to an application, and so on that application's end. */
#define RETURN_PATH_MARK 0x15008

/* No network namespace has this cookie. */
#define STRANGERS 0

/* Bounds of the maps.  bpf/README.md says what happens when each is full. */
#define MAX_WORKLOADS 4096
#define MAX_OWN_ADDRESSES 16384
#define MAX_CAPTURED_PREFIXES 16384
#define MAX_PENDING_FLOWS 65536
#define MAX_LOCAL_ADDRESSES 256
#define MAX_OUTSIDE 16384
#define MAX_WAITING 4096
#define MAX_PROBE_TARGETS 16384
#define MAX_PROBE_FLOWS 4096
#define MAX_RELAYED 65536

/* How a held connection is tried again.  The first wait is in the kernel's
 * ticks, of which a second has 100 to 1000: from 50 ms to half a second. */
#define HELD_FIRST_RETRY_TICKS 50
#define HELD_LONGEST_RETRY_MS 1000
#define HELD_RETRIES 127 /* about two minutes, as long as TCP waits anyway */
#define HELD_RETRIES_GROWING 8 /* where the kernel cannot bound their distance (before 6.15) */

/* Slots of `inbound_listeners`, one such map for each network namespace. */
#define LISTENER_PLAINTEXT_IPV4 0
#define LISTENER_PLAINTEXT_IPV6 1
#define LISTENER_TUNNEL_IPV4 2
#define LISTENER_TUNNEL_IPV6 3
#define LISTENER_SLOTS 4

/* Indexes of `counters`: every branch that is not "none of our business". */
#define COUNTER_CAPTURED_IPV4 0
#define COUNTER_CAPTURED_IPV6 1
#define COUNTER_REFUSED_STORAGE 2
#define COUNTER_REFUSED_FLOW 3
#define COUNTER_REFUSED_MPTCP 4
#define COUNTER_STEERED_PLAINTEXT 5
#define COUNTER_STEERED_TUNNEL 6
#define COUNTER_REFUSED_NO_LISTENER 7
#define COUNTER_REFUSED_LINK 8
#define COUNTER_UNBOUND_ANSWERS 9
#define COUNTER_HELD_CONNECTIONS 10
#define COUNTER_HELD_ARRIVALS 11
#define COUNTER_PASSED_PROBES 12
#define COUNTER_REFUSED_PROBES 13
#define COUNTER_REFUSED_DISGUISED 14
#define COUNTER_COUNT 15

/* Key of `captured_prefixes` (LPM trie): where captured connections go. */
struct prefix {
	__u32 length; /* bits, 96 + n for IPv4 */
	__u8 address[16];
};

/* Value of `workloads`; its key is the network namespace's cookie, or STRANGERS:
 * there if everything is captured of namespaces that are not known yet. */
struct workload_entry {
	__u8 ipv4_source[16]; /* bound as source of captured IPv4 connections */
	__u8 ipv6_source[16]; /* the same for IPv6; all zero: none */
	__u8 captures_everything; /* what lies outside of `captured_prefixes` too */
	__u8 padding[7];
};

/* Key of `local_addresses`, one such map for each network namespace. */
struct address {
	__u8 bytes[16];
};

/* Key of `own_addresses`: an address that is local to this namespace. */
struct own_address {
	__u64 netns_cookie;
	__u8 address[16];
};

/* Key of `pending_flows`: the client end of a captured connection. */
struct flow {
	__u64 netns_cookie;
	__u8 client_address[16];
	__u16 client_port; /* host order */
	__u8 padding[6];
};

/* Where the application meant to connect. */
struct original_destination {
	__u8 address[16];
	__u16 port; /* network order */
	__u8 padding[2];
};

/* Value of `connected_to`: the same, and where it is held, or was. */
struct connection {
	__u64 held_in; /* netns cookie; 0: never held */
	__u8 address[16];
	__u16 port; /* network order */
	__u8 padding[6];
};

/* Value of `waiting`, whose key is the cookie of an unknown network namespace. */
struct newcomer {
	__u64 cgroup_id; /* of the process that was seen first */
	__u32 pid;	 /* the same, as the initial pid namespace has it; 0: not known */
	__u8 padding[4];
};

/* Key of `probe_targets`: a port of a workload that the kubelet may connect to. */
struct probe_target {
	__u64 netns_cookie; /* the kubelet's */
	__u8 address[16];
	__u16 port; /* host order */
	__u8 padding[6];
};

/* Key of `probe_flows`, a probe whose handshake is under way, and of `relayed`. */
struct ends {
	__u8 client_address[16];
	__u8 target_address[16];
	__u16 client_port; /* host order */
	__u16 target_port; /* host order */
	__u8 padding[4];
};

#endif
