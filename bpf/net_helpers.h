/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Pure helpers on addresses.  Never a map call here: bcc rewrites map calls in
 * the main file only, one in a header compiles and then fails to load.
 */
#ifndef INTERCEPTOR_NET_HELPERS_H
#define INTERCEPTOR_NET_HELPERS_H

#include "abi.h"

/* The kernel's numbers, which no UAPI header gives without dragging libc in. */
#define FAMILY_INET 2
#define FAMILY_INET6 10
#define LEVEL_IP 0
#define LEVEL_IPV6 41
#define LEVEL_SOCKET 1
#define LEVEL_TCP 6
#define OPTION_BIND_TO_DEVICE 25 /* SO_BINDTODEVICE */
#define OPTION_SYN_COUNT 7 /* TCP_SYNCNT */
#define OPTION_RTO_MAX_MS 44 /* TCP_RTO_MAX_MS, since Linux 6.15 */
#define OPTION_ORIGINAL_DST 80 /* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST */
#define PROTOCOL_TCP 6
#define PROTOCOL_MPTCP 262
#define STATE_SYN_SENT 2
#define STATE_LISTEN 10
#define LOOPBACK_IFINDEX 1
#define PAGE_BYTES 4096
#define ETHER_TYPE_IPV4 0x0800

/* As in uapi/linux/in.h.  That header, like linux/bpf.h without uapi, draws in
 * headers of the kernel's inside: compiling them takes four times as long as
 * compiling us. */
struct sockaddr_in {
	__u16 sin_family;
	__be16 sin_port;
	struct {
		__be32 s_addr;
	} sin_addr;
	__u8 __pad[8];
};

#define IPV4_LOOPBACK bpf_htonl(0x7f000001)
#define IPV4_MAPPED_MARK bpf_htonl(0x0000ffff)

static __always_inline void address_from_words(__u8 *address, __u32 a, __u32 b, __u32 c, __u32 d)
{
	__u32 *words = (__u32 *)address;
	words[0] = a;
	words[1] = b;
	words[2] = c;
	words[3] = d;
}

static __always_inline void address_from_ipv4(__u8 *address, __u32 ipv4)
{
	address_from_words(address, 0, 0, IPV4_MAPPED_MARK, ipv4);
}

static __always_inline __u32 address_word(const __u8 *address, int index)
{
	return ((const __u32 *)address)[index];
}

static __always_inline int is_ipv4_mapped(const __u8 *address)
{
	return address_word(address, 0) == 0 && address_word(address, 1) == 0 &&
	       address_word(address, 2) == IPV4_MAPPED_MARK;
}

/*
 * Loopback and the unspecified address (which connect(2) treats as loopback)
 * never leave the namespace: they are never captured, whatever the prefixes.
 */
static __always_inline int is_loopback(const __u8 *address)
{
	__u32 last = address_word(address, 3);

	if (is_ipv4_mapped(address))
		return last == 0 || (last & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return address_word(address, 0) == 0 && address_word(address, 1) == 0 &&
	       address_word(address, 2) == 0 && (last == 0 || last == bpf_htonl(1));
}

static __always_inline int is_unset(const __u8 *address)
{
	return !(address_word(address, 0) | address_word(address, 1) |
		 address_word(address, 2) | address_word(address, 3));
}

#endif
