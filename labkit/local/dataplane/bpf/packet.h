/* Reading a packet into a flow, and rewriting it into another one. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "maps.h"

#define IP_OFFSET ETH_HLEN
#define IP_MORE_FRAGMENTS 0x2000
#define IP_FRAGMENT_OFFSET 0x1fff

enum { ICMP_ECHO_REPLY = 0, ICMP_ECHO = 8 };

struct icmp_echo {                      /* <linux/icmp.h> drags in headers that no BPF target has */
	__u8 type, code;
	__sum16 checksum;
	__be16 id, sequence;
};

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

struct packet {
	struct flow flow;
	__u32 l4;               /* offset of the TCP or UDP header; 0 where the packet does not carry one */
	__u8 tcp_flags;
	bool starts;            /* may begin a connection */
};

enum parsed { PARSED, NOT_OURS, MALFORMED };

static __always_inline enum parsed parse_ports(struct __sk_buff *skb, struct packet *packet)
{
	__be16 ports[2];

	if (bpf_skb_load_bytes(skb, packet->l4, ports, sizeof(ports)))
		return MALFORMED;
	packet->flow.sport = ports[0];
	packet->flow.dport = ports[1];
	return PARSED;
}

static __always_inline enum parsed parse(struct __sk_buff *skb, struct packet *packet)
{
	struct fragment_key fragment_key = {};
	struct fragment *fragment;
	struct iphdr ip;
	struct icmp_echo icmp;
	__u16 frag_off;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return NOT_OURS;        /* ARP, IPv6 */
	if (bpf_skb_load_bytes(skb, IP_OFFSET, &ip, sizeof(ip)) || ip.ihl < 5)
		return MALFORMED;
	if ((ip.daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || ip.daddr == 0xffffffff)
		return NOT_OURS;        /* multicast, broadcast */
	packet->flow = (struct flow){ .saddr = ip.saddr, .daddr = ip.daddr, .proto = ip.protocol };
	packet->l4 = IP_OFFSET + ip.ihl * 4;
	packet->tcp_flags = 0;
	packet->starts = true;

	frag_off = bpf_ntohs(ip.frag_off);
	fragment_key = (struct fragment_key){
		.saddr = ip.saddr, .daddr = ip.daddr, .id = ip.id, .proto = ip.protocol,
	};
	if (frag_off & IP_FRAGMENT_OFFSET) {
		packet->l4 = 0;
		fragment = bpf_map_lookup_elem(&cali_v4_frags, &fragment_key);
		if (fragment) {
			packet->flow.sport = fragment->sport;
			packet->flow.dport = fragment->dport;
		}
		return PARSED;
	}

	switch (ip.protocol) {
	case IPPROTO_TCP:
		if (parse_ports(skb, packet) ||
		    bpf_skb_load_bytes(skb, packet->l4 + 13, &packet->tcp_flags, 1))
			return MALFORMED;
		packet->starts = (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
		break;
	case IPPROTO_UDP:
		if (parse_ports(skb, packet))
			return MALFORMED;
		break;
	case IPPROTO_ICMP:
		if (bpf_skb_load_bytes(skb, packet->l4, &icmp, sizeof(icmp)))
			return MALFORMED;
		if (icmp.type != ICMP_ECHO && icmp.type != ICMP_ECHO_REPLY)
			return NOT_OURS; /* an error about a connection: the host's stack knows where it belongs */
		packet->flow.sport = packet->flow.dport = icmp.id;
		packet->starts = icmp.type == ICMP_ECHO;
		packet->l4 = 0;
		break;
	default:
		packet->l4 = 0;
	}

	if (frag_off & IP_MORE_FRAGMENTS) {
		struct fragment first = { .sport = packet->flow.sport, .dport = packet->flow.dport };

		bpf_map_update_elem(&cali_v4_frags, &fragment_key, &first, BPF_ANY);
	}
	return PARSED;
}

static __always_inline int rewrite_address(struct __sk_buff *skb, struct packet *packet, __u32 field, __u32 checksum,
					   __u32 udp, __be32 from, __be32 to)
{
	if (from == to)
		return 0;
	if (packet->l4 && bpf_l4_csum_replace(skb, packet->l4 + checksum, from, to, BPF_F_PSEUDO_HDR | udp | 4))
		return -1;
	if (bpf_l3_csum_replace(skb, IP_OFFSET + offsetof(struct iphdr, check), from, to, 4))
		return -1;
	return bpf_skb_store_bytes(skb, IP_OFFSET + field, &to, sizeof(to), 0);
}

static __always_inline int rewrite_port(struct __sk_buff *skb, struct packet *packet, __u32 field, __u32 checksum,
					__u32 udp, __be16 from, __be16 to)
{
	if (from == to || !packet->l4)
		return 0;
	if (bpf_l4_csum_replace(skb, packet->l4 + checksum, from, to, udp | 2))
		return -1;
	return bpf_skb_store_bytes(skb, packet->l4 + field, &to, sizeof(to), 0);
}

/* Translate: checksums are corrected for what changes, so the payload is never read. */
static __always_inline int rewrite(struct __sk_buff *skb, struct packet *packet, struct flow *to)
{
	struct flow *from = &packet->flow;
	bool is_udp = from->proto == IPPROTO_UDP;
	__u32 checksum = is_udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check);
	__u32 udp = is_udp ? BPF_F_MARK_MANGLED_0 : 0;  /* 0 means "no checksum" in UDP: leave it so */

	if (rewrite_address(skb, packet, offsetof(struct iphdr, saddr), checksum, udp, from->saddr, to->saddr) ||
	    rewrite_address(skb, packet, offsetof(struct iphdr, daddr), checksum, udp, from->daddr, to->daddr) ||
	    rewrite_port(skb, packet, 0, checksum, udp, from->sport, to->sport) ||
	    rewrite_port(skb, packet, 2, checksum, udp, from->dport, to->dport))
		return -1;
	return 0;
}
