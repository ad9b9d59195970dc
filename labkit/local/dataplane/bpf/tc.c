/* The data path: six programs, on the traffic control hooks of a node's interfaces.
 *
 *                    from_workload                      to_uplink
 *      pod eth0 ───── azv… ─────────── node ──────────── eth0 ───── other nodes, clients
 *                    to_workload       │  │            from_uplink
 *                           vxlan.calico  lo
 *                            from_tunnel  to_loopback
 *
 * Each program does the same three things: read the packet, find its connection, send it on its way. The first packet
 * of a connection has none yet: it is load balanced, asked about policy, and remembered. A packet that belongs
 * to a connection from before these programs were attached is left to the host's stack, which knows it.
 *
 * What the kernel must have: 5.10, for bpf_redirect_peer() and bpf_redirect_neigh(), which take a packet past the host's
 * stack. Everything else is older: functions that the verifier checks by themselves (5.6), bounded loops (5.3), room
 * behind the Ethernet header (5.2). connect.c needs 5.8, for getpeername4, and uses bpf_set_retval() where it exists (5.18).
 */
#include "begin.h"

static __always_inline int handle(struct __sk_buff *skb, enum hook hook, __be32 peer)
{
	struct config *config = the_config();
	struct connection *connection;
	struct packet *packet = the_packet();
	struct way way;
	struct flow to;
	int verdict;

	if (!config || !packet)
		return TC_ACT_OK;
	switch (parse(skb, packet)) {
	case NOT_OURS:
		return TC_ACT_OK;
	case MALFORMED:
		return drop(skb, hook, DROP_ERROR);
	case PARSED:
		break;
	}
	SAY(config, CONFIG_LOG_DEBUG, "if %d: packet %x -> %x", skb->ifindex, bpf_ntohl(packet->flow.saddr),
	    bpf_ntohl(packet->flow.daddr));
	if (packet->quoted && hook == FROM_WORKLOAD) {
		/* A pod reports only what it has received itself. */
		struct route *source = route_to(packet->reporter);

		if (packet->reporter != packet->flow.saddr || !source || source->ifindex != skb->ifindex)
			return drop(skb, hook, DROP_SOURCE);
	}

	if (hook == FROM_UPLINK && packet->flow.proto == IPPROTO_UDP && packet->flow.dport == config->vxlan_port &&
	    packet->flow.daddr == config->node) {
		/* VXLAN to this node: the stack takes it to vxlan.calico, if it comes from a node of the cluster. */
		struct route *source = route_to(packet->flow.saddr);

		return source && source->flags & RT_HOST ? TC_ACT_OK : drop(skb, hook, DROP_SOURCE);
	}

	connection = find_connection(skb, packet);
	if (connection && hook == FROM_TUNNEL && connection->path == PATH_TUNNEL) {
		/* Each of two nodes believes that the backend is on the other: it moved. What came by the tunnel
		 * never leaves by it, or the packet would go in circles until its TTL ends.
		 */
		if (!packet->starts)
			return drop(skb, hook, DROP_NO_BACKEND);
		connection = NULL;
	}
	if (connection && config->flags & CONFIG_DRAIN && connection->path != PATH_TUNNEL &&
	    same_ends(&connection->to, &packet->flow))
		/* The stack can do this one without us, and has to know it: kube-proxy may send a connection that
		 * begins now from the same port to the same backend.
		 */
		connection = NULL;
	if (connection) {
		to = connection->to;
		way = (struct way){ .path = connection->path, .target = connection->ifindex };
		if (!fits(skb, config, hook, packet, way, &verdict))
			return verdict;
		if (rewrite(skb, packet, &to))
			return drop(skb, hook, DROP_ERROR);
		return send(skb, config, hook, packet, way);
	}
	if (packet->quoted)
		return TC_ACT_OK;       /* of a connection that only the host's stack knows, if anyone */
	if (config->flags & CONFIG_DRAIN)
		return TC_ACT_OK;
	if (!packet->starts)
		return fall_through(skb, config, hook, packet, peer);
	return begin(skb, config, hook, packet, peer);
}

/* What a pod sends. */
SEC("tc")
int from_workload(struct __sk_buff *skb)
{
	return handle(skb, FROM_WORKLOAD, 0);
}

/* What the host's stack sends to a pod: the host's own packets, and those that fell through. */
SEC("tc")
int to_workload(struct __sk_buff *skb)
{
	if (skb->mark & MARK_SEEN)
		return TC_ACT_OK;
	return handle(skb, TO_WORKLOAD, 0);
}

/* What the network sends to this node, its pods, and the services' outside addresses. */
SEC("tc")
int from_uplink(struct __sk_buff *skb)
{
	if (skb->mark & MARK_SEEN)
		return TC_ACT_OK;       /* from this host itself; what comes by the network has no mark */
	return handle(skb, FROM_UPLINK, 0);
}

/* What the host's stack sends to the network: UDP of host processes to a service is translated here. */
SEC("tc")
int to_uplink(struct __sk_buff *skb)
{
	struct packet *packet = the_packet();

	if ((skb->mark & MARK_MASK) == MARK_FALLTHROUGH) {
		/* Still a service's address: nobody knows this connection, and the network would send it back. */
		if (packet && parse(skb, packet) == PARSED) {
			struct frontend_key key = {
				.addr = packet->flow.daddr, .port = packet->flow.dport, .proto = packet->flow.proto,
			};

			if (bpf_map_lookup_elem(&cali_v4_nat_fe, &key))
				return drop(skb, TO_UPLINK, DROP_NO_BACKEND);
		}
		return TC_ACT_OK;
	}
	if (skb->mark & MARK_SEEN)
		return TC_ACT_OK;
	return handle(skb, TO_UPLINK, 0);
}

/* What another node sends over VXLAN: clients' packets for a backend here, and replies to clients that came in by
 * this node.
 */
SEC("tc")
int from_tunnel(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};

	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return drop(skb, FROM_TUNNEL, DROP_ERROR);
	bpf_skb_change_type(skb, 0);    /* PACKET_HOST: the inner Ethernet header names no one */
	return handle(skb, FROM_TUNNEL, bpf_htonl(key.remote_ipv4));
}

/* What the host sends to itself: to its own node ports, and its answers to what it asked by a service. */
SEC("tc")
int to_loopback(struct __sk_buff *skb)
{
	return handle(skb, TO_LOOPBACK, 0);
}

char LICENSE[] SEC("license") = "GPL";
