/* Connection tracking. An entry says what becomes of a packet, so one look-up is all that an established
 * connection costs: what to rewrite it to, and which way it goes.
 */
#pragma once
#include "packet.h"

#define SECOND 1000000000ULL
#define UDP_IDLE (60 * SECOND)
#define PORTS_FROM 20000        /* Calico's bpfPSNATPorts */
#define PORTS 10000
#define PORT_TRIES 8
#define SYN_REPEATS (10 * SECOND)       /* a SYN this soon after the last one is a retransmission */

static __always_inline bool is_over(struct packet *packet, struct connection *connection, __u64 now)
{
	struct connection *replies;
	struct flow key;

	if (packet->flow.proto == IPPROTO_TCP)
		return packet->starts && (connection->tcp_flags & (TCP_FIN | TCP_RST) ||
					  now - connection->seen > SYN_REPEATS);
	if (now - connection->seen < UDP_IDLE)
		return false;
	key = reverse(&connection->to); /* still in use if the other end talks */
	replies = bpf_map_lookup_elem(&cali_v4_ct, &key);
	return !replies || now - replies->seen > UDP_IDLE;
}

static __always_inline struct connection *find_connection(struct __sk_buff *skb, struct packet *packet)
{
	struct connection *connection = bpf_map_lookup_elem(&cali_v4_ct, &packet->flow);
	__u64 now = bpf_ktime_get_ns();

	if (!connection || is_over(packet, connection, now))
		return NULL;
	connection->seen = now;
	connection->packets++;
	connection->bytes += skb->len;
	connection->tcp_flags |= packet->tcp_flags;
	return connection;
}

static __always_inline bool same_ends(struct flow *a, struct flow *b)
{
	return a->saddr == b->saddr && a->daddr == b->daddr && a->sport == b->sport && a->dport == b->dport;
}

/* A port from which a client's connection has replies like no other's. 0: a few tries found none. Not inlined, so
 * that the verifier walks through it once.
 */
__noinline int free_port(__be32 saddr, __be32 daddr, __be16 dport, __u8 proto)
{
	struct flow replies = { .saddr = daddr, .daddr = saddr, .sport = dport, .proto = proto };

	for (int i = 0; i < PORT_TRIES; i++) {
		replies.dport = bpf_htons(PORTS_FROM + bpf_get_prandom_u32() % PORTS);
		if (!bpf_map_lookup_elem(&cali_v4_ct, &replies))
			return replies.dport;
	}
	return 0;
}

/* Give a new connection another source port, if replies to it would look like those of another one: a client may ask
 * for one backend by two addresses from the same port. Returns whether it has another one.
 */
static __always_inline bool avoid_collision(struct flow *asked, struct flow *to)
{
	struct flow key = reverse(to);
	struct flow back = reverse(asked);
	struct connection *replies = bpf_map_lookup_elem(&cali_v4_ct, &key);
	int port;

	if (!replies || same_ends(&replies->to, &back))
		return false;
	if (to->proto != IPPROTO_TCP && to->proto != IPPROTO_UDP)
		return false;
	port = free_port(to->saddr, to->daddr, to->dport, to->proto);
	if (port)
		to->sport = port;
	return port;
}

/* Where packets go; `target` is an ifindex or a node's address. */
struct way {
	__u8 path;
	__u32 target;
};

/* Remember both directions of a new connection: there as `to`, by way `there`; its replies by way `back`. */
static __always_inline int add_connection(struct __sk_buff *skb, struct packet *packet, struct flow *to,
					  struct way there, struct way back)
{
	struct connection entry = { .to = *to, .path = there.path, .ifindex = there.target };
	struct flow replies = reverse(to);

	entry.created = entry.seen = bpf_ktime_get_ns();
	entry.packets = 1;
	entry.bytes = skb->len;
	entry.tcp_flags = packet->tcp_flags;
	if (bpf_map_update_elem(&cali_v4_ct, &packet->flow, &entry, BPF_ANY))
		return -1;
	entry.to = reverse(&packet->flow);
	entry.path = back.path;
	entry.ifindex = back.target;
	entry.packets = entry.bytes = 0;
	entry.tcp_flags = 0;
	return bpf_map_update_elem(&cali_v4_ct, &replies, &entry, BPF_ANY);
}
