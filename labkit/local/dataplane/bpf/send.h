/* Sending a packet on its way, or telling its sender that it cannot go on. */
#pragma once
#include "conntrack.h"
#include "icmp.h"
#include "report.h"

#define AF_INET 2       /* <sys/socket.h> is none of BPF's */
#define FITS_ANYWHERE 1280      /* bytes of an IP packet that no link of the lab has to cut */

static __always_inline int encapsulate(struct __sk_buff *skb, struct config *config, enum hook hook, __be32 node)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = config->vni, .remote_ipv4 = bpf_ntohl(node), .tunnel_ttl = 64,
	};

	if (config->flags & CONFIG_OVERLAY) {
		/* The other node's stack may be the one that takes it, while its data plane is switched: then it has to
		 * be addressed to the device there, whose hardware address follows from the node's (overlay.py).
		 */
		__u8 device[ETH_ALEN] = { 0x66, 0x0a };

		__builtin_memcpy(device + 2, &node, sizeof(node));
		if (bpf_skb_store_bytes(skb, 0, device, sizeof(device), 0))
			return drop(skb, hook, DROP_ERROR);
	}
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX))
		return drop(skb, hook, DROP_ERROR);
	return bpf_redirect(config->vxlan, 0);
}

/* With one gateway for all, the kernel need not look for a route for each packet. */
static __always_inline int leave(struct config *config)
{
	struct bpf_redir_neigh next = { .nh_family = AF_INET, .ipv4_nh = config->gateway };

	return config->gateway ? bpf_redirect_neigh(config->uplink, &next, sizeof(next), 0)
			       : bpf_redirect_neigh(config->uplink, NULL, 0, 0);
}

/* What the host sends comes back in by the same device, and is the host's to deal with: where the backend is a process of
 * its own, and where a packet may have to be cut, which no program can do.
 */
static __always_inline int come_back(struct __sk_buff *skb, enum hook hook)
{
	__u8 own[ETH_ALEN];     /* the device's hardware address: the sender's is the receiver's now */

	if (bpf_skb_load_bytes(skb, ETH_ALEN, own, sizeof(own)) || bpf_skb_store_bytes(skb, 0, own, sizeof(own), 0))
		return drop(skb, hook, DROP_ERROR);
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

/* Whether the links on the way may be too narrow for what the host has sized for another one: loopback takes 64 KiB, and
 * what is for another node's address has room for a tunnel. All fragments of a datagram go the same way. TCP has agreed
 * on a size with the pod.
 */
static __always_inline bool may_be_cut(struct __sk_buff *skb, struct packet *packet)
{
	if (packet->flow.proto == IPPROTO_TCP || packet->quoted || skb->gso_size)
		return false;
	return !packet->whole || skb->len > FITS_ANYWHERE + ETH_HLEN;
}

/* Without "don't fragment", as netfilter leaves it to what it translates: few processes mean it. */
static __always_inline int leave_to_stack(struct __sk_buff *skb, enum hook hook, struct packet *packet)
{
	__be16 no = 0;

	if (packet->dont_fragment &&
	    (bpf_l3_csum_replace(skb, IP_OFFSET + offsetof(struct iphdr, check), bpf_htons(IP_DONT_FRAGMENT), no, 2) ||
	     bpf_skb_store_bytes(skb, IP_OFFSET + offsetof(struct iphdr, frag_off), &no, sizeof(no), 0)))
		return drop(skb, hook, DROP_ERROR);
	return come_back(skb, hook);
}

static __always_inline int send(struct __sk_buff *skb, struct config *config, enum hook hook, struct packet *packet,
				struct way way)
{
	bool arriving = !is_leaving(hook);

	if (arriving && way.path != PATH_STACK && decrement_ttl(skb, packet))
		return drop(skb, hook, DROP_ERROR);
	mark(skb, MARK_SEEN);
	switch (way.path) {
	case PATH_LOCAL:
		if (hook == TO_WORKLOAD)
			return TC_ACT_OK;               /* it is there */
		if (arriving)
			return bpf_redirect_peer(way.target, 0);        /* into the pod, past the host's stack */
		if (may_be_cut(skb, packet))
			return leave_to_stack(skb, hook, packet);
		return bpf_redirect_neigh(way.target, NULL, 0, 0);
	case PATH_OUT:
		if (hook == TO_LOOPBACK && may_be_cut(skb, packet))
			return leave_to_stack(skb, hook, packet);
		return arriving || hook == TO_LOOPBACK ? leave(config) : TC_ACT_OK;
	case PATH_TUNNEL:
		return encapsulate(skb, config, hook, way.target);
	case PATH_HOST:
		return come_back(skb, hook);
	}
	return TC_ACT_OK;
}

/* Tell the sender that its packet cannot go on. */
static __always_inline int refuse(struct __sk_buff *skb, enum hook hook, struct packet *packet, enum counter why,
				  __u8 type, __u8 code, __u16 mtu, __be32 source)
{
	/* What came by the tunnel would have to go back by it, and a router's own packets never get here. */
	if (!packet->whole || hook == FROM_TUNNEL || hook == TO_WORKLOAD)
		return drop(skb, hook, why);
	count(skb, hook, why);
	if (make_error(skb, type, code, mtu, source))
		return TC_ACT_SHOT;
	mark(skb, MARK_SEEN);
	return bpf_redirect(skb->ifindex, is_leaving(hook) ? BPF_F_INGRESS : 0);
}

/* Whether the packet may take this way; if not, its sender has been told, and `verdict` is what the program returns. */
static __always_inline bool fits(struct __sk_buff *skb, struct config *config, enum hook hook, struct packet *packet,
				 struct way way, int *verdict)
{
	__u32 size = skb->gso_size ? skb->gso_size + sizeof(struct iphdr) + sizeof(struct tcphdr) : skb->len - ETH_HLEN;

	if (!is_leaving(hook) && way.path != PATH_STACK && packet->ttl <= 1) {
		*verdict = refuse(skb, hook, packet, DROP_TTL, ICMP_TIME_EXCEEDED, 0, 0, config->node);
		return false;
	}
	if (way.path == PATH_TUNNEL && packet->dont_fragment && size > config->tunnel_mtu) {
		*verdict = refuse(skb, hook, packet, DROP_TOO_BIG, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED,
				  config->tunnel_mtu, config->node);
		return false;
	}
	return true;
}
