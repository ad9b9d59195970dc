/* ICMP errors of our own: a packet that cannot go on is answered where it came from, as the host's stack would do. */
#pragma once
#include "packet.h"

#define QUOTED_L4 20    /* bytes quoted after the IP header: 8 are due, and TCP's checksum must be among them */

static __always_inline __sum16 fold(__s64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Make an Ethernet frame into an ICMP error about it; it goes out as `source` to the frame's sender. Not rewritten
 * yet: the error quotes the packet as its sender sent it. A global function: the verifier checks it once.
 */
__noinline int make_error(struct __sk_buff *skb, __u8 type, __u8 code, __u16 mtu, __be32 source)
{
	__u8 macs[12], swapped[12];
	struct {
		struct icmp icmp;
		struct iphdr ip;
		__u8 l4[QUOTED_L4];
	} body = {};
	struct iphdr ip = {
		.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_ICMP, .saddr = source,
	};
	__u32 quoted = sizeof(body.ip) + 8;

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) ||
	    bpf_skb_load_bytes(skb, IP_OFFSET, &body.ip, sizeof(body.ip)))
		return -1;
	if (body.ip.protocol == IPPROTO_TCP) {
		quoted = sizeof(body.ip) + QUOTED_L4;
		if (bpf_skb_load_bytes(skb, IP_OFFSET + sizeof(body.ip), body.l4, QUOTED_L4))
			return -1;
	} else if (bpf_skb_load_bytes(skb, IP_OFFSET + sizeof(body.ip), body.l4, 8)) {
		return -1;
	}
	body.icmp.type = type;
	body.icmp.code = code;
	body.icmp.sequence = bpf_htons(mtu);
	body.icmp.checksum = fold(bpf_csum_diff(NULL, 0, (__be32 *)&body, sizeof(body), 0));
	ip.daddr = body.ip.saddr;
	ip.tot_len = bpf_htons(sizeof(ip) + sizeof(struct icmp) + quoted);
	ip.check = fold(bpf_csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
	__builtin_memcpy(swapped, macs + 6, 6);
	__builtin_memcpy(swapped + 6, macs, 6);

	if (bpf_skb_change_tail(skb, IP_OFFSET + quoted, 0) ||
	    bpf_skb_adjust_room(skb, sizeof(ip) + sizeof(struct icmp), BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0) ||
	    bpf_skb_store_bytes(skb, IP_OFFSET, &ip, sizeof(ip), 0) ||
	    bpf_skb_store_bytes(skb, IP_OFFSET + sizeof(ip), &body.icmp, sizeof(body.icmp), 0))
		return -1;
	return 0;
}
