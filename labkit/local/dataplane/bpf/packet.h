/* Reading a packet into a flow, and rewriting it into another one.
 *
 * An ICMP error belongs to the connection of the packet that it quotes, and goes the way of that connection's replies:
 * its flow is the quoted packet's, the other way round.
 */
#pragma once
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
#define IP_DONT_FRAGMENT 0x4000

/* <linux/icmp.h> drags in headers that no BPF target has. */
enum { ICMP_ECHO_REPLY = 0, ICMP_DEST_UNREACH = 3, ICMP_ECHO = 8, ICMP_TIME_EXCEEDED = 11, ICMP_PARAMETERPROB = 12 };
enum { ICMP_PORT_UNREACH = 3, ICMP_FRAG_NEEDED = 4 };   /* codes of ICMP_DEST_UNREACH */

struct icmp {
	__u8 type, code;
	__sum16 checksum;
	__be16 id, sequence;    /* of an echo; an error has its next hop's MTU where the sequence is */
};

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

static __always_inline struct packet *the_packet(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cali_state, &zero);
}

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

static __always_inline struct flow reverse(struct flow *flow)
{
	return (struct flow){
		.saddr = flow->daddr, .daddr = flow->saddr,
		.sport = flow->dport, .dport = flow->sport, .proto = flow->proto,
	};
}

/* An error about a packet of a connection. It names the packet by its IP header and the eight bytes after it. */
static __always_inline enum parsed parse_error(struct __sk_buff *skb, struct packet *packet, __u32 icmp)
{
	struct flow quoted = {};
	__be16 ports[2] = {};
	struct iphdr ip;
	__u32 l4;

	packet->quoted = icmp + sizeof(struct icmp);
	if (bpf_skb_load_bytes(skb, packet->quoted, &ip, sizeof(ip)) || ip.ihl < 5)
		return MALFORMED;
	if (ip.daddr != packet->flow.saddr && ip.saddr != packet->flow.daddr)
		return MALFORMED;       /* about nothing that the receiver has sent */
	l4 = packet->quoted + ip.ihl * 4;
	if (ip.protocol == IPPROTO_ICMP)
		l4 += offsetof(struct icmp, id);
	if (bpf_skb_load_bytes(skb, l4, ports, sizeof(ports)))
		return MALFORMED;
	quoted.saddr = ip.saddr;
	quoted.daddr = ip.daddr;
	quoted.proto = ip.protocol;
	if (ip.protocol == IPPROTO_ICMP)
		ports[1] = ports[0];    /* an echo's identifier is both */
	if (ip.protocol == IPPROTO_TCP || ip.protocol == IPPROTO_UDP || ip.protocol == IPPROTO_ICMP) {
		quoted.sport = ports[0];
		quoted.dport = ports[1];
	}
	packet->reporter = packet->flow.saddr;
	packet->flow = reverse(&quoted);
	return PARSED;
}

static __always_inline enum parsed parse(struct __sk_buff *skb, struct packet *packet)
{
	struct fragment_key fragment_key = {};
	struct fragment *fragment;
	struct iphdr ip;
	struct icmp icmp;
	__u16 frag_off;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return NOT_OURS;        /* ARP, IPv6 */
	if (bpf_skb_load_bytes(skb, IP_OFFSET, &ip, sizeof(ip)) || ip.ihl < 5)
		return MALFORMED;
	if ((ip.daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || ip.daddr == 0xffffffff)
		return NOT_OURS;        /* multicast, broadcast */
	frag_off = bpf_ntohs(ip.frag_off);
	*packet = (struct packet){
		.flow = { .saddr = ip.saddr, .daddr = ip.daddr, .proto = ip.protocol },
		.l4 = IP_OFFSET + ip.ihl * 4, .ttl = ip.ttl, .starts = true,
		.whole = ip.ihl == 5 && !(frag_off & (IP_FRAGMENT_OFFSET | IP_MORE_FRAGMENTS)),
		.dont_fragment = frag_off & IP_DONT_FRAGMENT,
	};
	fragment_key = (struct fragment_key){
		.saddr = ip.saddr, .daddr = ip.daddr, .id = ip.id, .proto = ip.protocol,
	};
	if (frag_off & IP_FRAGMENT_OFFSET) {
		packet->l4 = 0;
		fragment = bpf_map_lookup_elem(&cali_v4_frags, &fragment_key);
		if (fragment) {
			packet->flow.sport = fragment->sport;
			packet->flow.dport = fragment->dport;
		} else {
			packet->starts = false;         /* without the first one nobody knows what it belongs to */
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
		packet->starts = icmp.type != ICMP_ECHO_REPLY;
		if (icmp.type == ICMP_DEST_UNREACH || icmp.type == ICMP_TIME_EXCEEDED ||
		    icmp.type == ICMP_PARAMETERPROB) {
			__u32 offset = packet->l4;

			packet->l4 = 0;
			packet->whole = false;          /* no errors about errors */
			return parse_error(skb, packet, offset);
		}
		if (icmp.type == ICMP_ECHO || icmp.type == ICMP_ECHO_REPLY)
			packet->flow.sport = packet->flow.dport = icmp.id;
		packet->l4 = 0;         /* of other kinds policy is asked, too */
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

/* `ip` is the offset of the header; a checksum at `l4`, if not 0, covers the addresses, too. */
static __always_inline int rewrite_address(struct __sk_buff *skb, __u32 ip, __u32 l4, __u32 udp, __u32 field,
					   __be32 from, __be32 to)
{
	if (from == to)
		return 0;
	if (l4 && bpf_l4_csum_replace(skb, l4, from, to, BPF_F_PSEUDO_HDR | udp | 4))
		return -1;
	if (bpf_l3_csum_replace(skb, ip + offsetof(struct iphdr, check), from, to, 4))
		return -1;
	return bpf_skb_store_bytes(skb, ip + field, &to, sizeof(to), 0);
}

static __always_inline int rewrite_port(struct __sk_buff *skb, __u32 offset, __u32 checksum, __u32 udp,
					__be16 from, __be16 to)
{
	if (from == to)
		return 0;
	if (bpf_l4_csum_replace(skb, checksum, from, to, udp | 2))
		return -1;
	return bpf_skb_store_bytes(skb, offset, &to, sizeof(to), 0);
}

/* Translate an error, and what it quotes: the receiver must find its own packet there. Addresses leave the ICMP
 * checksum alone, because the quoted header's own checksum makes up for them. The quoted TCP or UDP checksum stays:
 * most of what it covers is not there.
 */
static __always_inline int rewrite_error(struct __sk_buff *skb, struct packet *packet, struct flow *to)
{
	__u32 quoted = packet->quoted, checksum = quoted - sizeof(struct icmp) + offsetof(struct icmp, checksum);
	__u32 source = offsetof(struct iphdr, saddr), destination = offsetof(struct iphdr, daddr);
	struct flow *from = &packet->flow;
	__u32 ports;
	__u8 first;

	if (bpf_skb_load_bytes(skb, quoted, &first, 1))
		return -1;
	ports = quoted + (first & 0xf) * 4;
	/* A router on the way reports under its own address; the far end under the one that the client knows. */
	if (packet->reporter == from->saddr &&
	    rewrite_address(skb, IP_OFFSET, 0, 0, source, from->saddr, to->saddr))
		return -1;
	if (rewrite_address(skb, IP_OFFSET, 0, 0, destination, from->daddr, to->daddr) ||
	    rewrite_address(skb, quoted, 0, 0, source, from->daddr, to->daddr) ||
	    rewrite_address(skb, quoted, 0, 0, destination, from->saddr, to->saddr))
		return -1;
	if (from->proto != IPPROTO_TCP && from->proto != IPPROTO_UDP)
		return 0;
	return rewrite_port(skb, ports, checksum, 0, from->dport, to->dport) ||
	       rewrite_port(skb, ports + 2, checksum, 0, from->sport, to->sport) ? -1 : 0;
}

/* Translate: checksums are corrected for what changes, so the payload is never read. */
static __always_inline int rewrite(struct __sk_buff *skb, struct packet *packet, struct flow *to)
{
	struct flow *from = &packet->flow;
	bool is_udp = from->proto == IPPROTO_UDP;
	__u32 udp = is_udp ? BPF_F_MARK_MANGLED_0 : 0;  /* 0 means "no checksum" in UDP: leave it so */
	__u32 l4 = packet->l4, checksum = 0;

	if (packet->quoted)
		return rewrite_error(skb, packet, to);
	if (l4)
		checksum = l4 + (is_udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	if (rewrite_address(skb, IP_OFFSET, checksum, udp, offsetof(struct iphdr, saddr), from->saddr, to->saddr) ||
	    rewrite_address(skb, IP_OFFSET, checksum, udp, offsetof(struct iphdr, daddr), from->daddr, to->daddr))
		return -1;
	if (l4 && (rewrite_port(skb, l4, checksum, udp, from->sport, to->sport) ||
		   rewrite_port(skb, l4 + 2, checksum, udp, from->dport, to->dport)))
		return -1;
	return 0;
}

/* Where the host's stack is passed by, nobody else counts a packet's hops. */
static __always_inline int decrement_ttl(struct __sk_buff *skb, struct packet *packet)
{
	__u8 ttl = packet->ttl - 1, proto = packet->quoted ? IPPROTO_ICMP : packet->flow.proto;

	if (bpf_l3_csum_replace(skb, IP_OFFSET + offsetof(struct iphdr, check), bpf_htons(packet->ttl << 8 | proto),
				bpf_htons(ttl << 8 | proto), 2))
		return -1;
	return bpf_skb_store_bytes(skb, IP_OFFSET + offsetof(struct iphdr, ttl), &ttl, sizeof(ttl), 0);
}
