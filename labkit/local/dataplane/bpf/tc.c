/* The data path: five programs, on the traffic control hooks of a node's interfaces.
 *
 *                    from_workload                      to_uplink
 *      pod eth0 ───── azv… ─────────── node ──────────── eth0 ───── other nodes, clients
 *                    to_workload        │              from_uplink
 *                                  vxlan.calico
 *                                   from_tunnel
 *
 * Each program does the same three things: read the packet, find its connection, send it on its way. The first packet
 * of a connection has none yet: it is load balanced, asked about policy, and remembered. A packet that belongs
 * to a connection from before these programs were attached is left to the host's stack, which knows it.
 *
 * What the kernel must have: 5.10, for bpf_redirect_peer() and bpf_redirect_neigh(), which take a packet past the host's
 * stack. Everything else is older: functions that the verifier checks by themselves (5.6), bounded loops (5.3), room
 * behind the Ethernet header (5.2). connect.c needs 5.8, for getpeername4, and uses bpf_set_retval() where it exists (5.18).
 */
#include "nat.h"
#include "policy.h"
#include "conntrack.h"
#include "icmp.h"

enum hook { FROM_WORKLOAD, TO_WORKLOAD, FROM_UPLINK, TO_UPLINK, FROM_TUNNEL };

#define AF_INET 2       /* <sys/socket.h> is none of BPF's */

/* A mark on a packet that was dealt with, so that the next hook lets it pass. The bits are Calico's. */
#define MARK_SEEN 0x1000000
#define MARK_FALLTHROUGH 0x5000000
#define MARK_MASK 0xf000000

static __always_inline void mark(struct __sk_buff *skb, __u32 value)
{
	skb->mark = (skb->mark & ~MARK_MASK) | value;
}

static __always_inline void count(struct __sk_buff *skb, enum hook hook, enum counter which)
{
	/* The verifier wants fields of the packet's context read off the context itself; else the compiler keeps their
	 * addresses for later.
	 */
	asm volatile("" : "+r"(skb));
	struct counter_key key = { .ifindex = skb->ifindex, .hook = hook == TO_WORKLOAD || hook == TO_UPLINK };
	struct counters *counters = bpf_map_lookup_elem(&cali_counters, &key);

	if (counters)
		counters->of[which]++;
}

/* To the trace pipe, by bpfLogLevel: `bpftool prog tracelog` prints it. Addresses are in hexadecimal, because the
 * kernel has a word for them since 5.13 only.
 */
#define SAY(config, level, format, ...) \
	do { \
		static const char text[] = "calico: " format; \
		if ((config)->flags & (level)) \
			bpf_trace_printk(text, sizeof(text), __VA_ARGS__); \
	} while (0)

static __always_inline int drop(struct __sk_buff *skb, enum hook hook, enum counter why)
{
	struct config *config = the_config();

	count(skb, hook, why);
	if (config)
		SAY(config, CONFIG_LOG_INFO, "if %d hook %d: dropped, counter %d", skb->ifindex, hook, why);
	return TC_ACT_SHOT;
}

/* --- Send a packet on its way ---------------------------------------------------------------------------- */

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

/* Where a host process and its backend are on one host, what it sends to the network comes back in by the same device. */
static __always_inline int come_back(struct __sk_buff *skb, enum hook hook)
{
	__u8 own[ETH_ALEN];     /* the device's hardware address: the sender's is the receiver's now */

	if (bpf_skb_load_bytes(skb, ETH_ALEN, own, sizeof(own)) || bpf_skb_store_bytes(skb, 0, own, sizeof(own), 0))
		return drop(skb, hook, DROP_ERROR);
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

static __always_inline bool is_arriving(enum hook hook)
{
	return hook == FROM_WORKLOAD || hook == FROM_UPLINK || hook == FROM_TUNNEL;
}

static __always_inline int send(struct __sk_buff *skb, struct config *config, enum hook hook, struct packet *packet,
				struct way way)
{
	bool arriving = is_arriving(hook);

	if (arriving && way.path != PATH_STACK && decrement_ttl(skb, packet))
		return drop(skb, hook, DROP_ERROR);
	mark(skb, MARK_SEEN);
	switch (way.path) {
	case PATH_LOCAL:
		if (hook == TO_WORKLOAD)
			return TC_ACT_OK;               /* it is there */
		if (arriving)
			return bpf_redirect_peer(way.target, 0);        /* into the pod, past the host's stack */
		return bpf_redirect_neigh(way.target, NULL, 0, 0);
	case PATH_OUT:
		return arriving ? leave(config) : TC_ACT_OK;
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
	return bpf_redirect(skb->ifindex, hook == TO_UPLINK ? BPF_F_INGRESS : 0);
}

/* Whether the packet may take this way; if not, its sender has been told, and `verdict` is what the program returns. */
static __always_inline bool fits(struct __sk_buff *skb, struct config *config, enum hook hook, struct packet *packet,
				 struct way way, int *verdict)
{
	__u32 size = skb->gso_size ? skb->gso_size + sizeof(struct iphdr) + sizeof(struct tcphdr) : skb->len - ETH_HLEN;

	if (is_arriving(hook) && way.path != PATH_STACK && packet->ttl <= 1) {
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

/* --- The first packet of a connection -------------------------------------------------------------------- */

static __always_inline struct way way_to(struct config *config, enum hook hook, struct route *route)
{
	struct way way = { .path = PATH_OUT };

	if (route && route->flags & RT_LOCAL) {
		way.path = route->flags & RT_WORKLOAD ? PATH_LOCAL : PATH_STACK;
		way.target = route->ifindex;
	} else if (config->flags & CONFIG_OVERLAY && route && route->flags & RT_WORKLOAD) {
		way.path = PATH_TUNNEL;
		way.target = route->node;
	} else if (config->flags & CONFIG_OVERLAY && hook == FROM_WORKLOAD) {
		way.path = PATH_STACK;  /* nobody out there knows the pod's address: the host gives it its own */
	}
	return way;
}

static __always_inline struct way way_back(struct __sk_buff *skb, struct config *config, enum hook hook,
					   __be32 client, __be32 peer, bool service)
{
	struct way way = { .path = PATH_STACK };        /* what came by the stack goes back by the stack */

	if (hook == FROM_WORKLOAD) {
		way.path = PATH_LOCAL;
		way.target = skb->ifindex;
	} else if (hook == FROM_UPLINK || (hook == FROM_TUNNEL && service && config->flags & CONFIG_DSR &&
					   !(config->dsr_optout && in_ip_set(config->dsr_optout, client)))) {
		way.path = PATH_OUT;
	} else if (hook == FROM_TUNNEL) {
		way.path = PATH_TUNNEL;
		way.target = peer;
	}
	return way;
}

/* What goes from pod to pod of an overlay must be from behind the node that it comes from. */
static __always_inline bool is_behind(struct config *config, __be32 peer, __be32 sender)
{
	struct route *source = route_to(sender);

	return config->flags & CONFIG_OVERLAY && source && !(source->flags & RT_LOCAL) && source->node == peer;
}

/* Whether the host itself sends it. Who only says so, from elsewhere, is no more than others. */
static __always_inline bool is_own(enum hook hook, __be32 sender)
{
	struct route *source = is_arriving(hook) ? NULL : route_to(sender);

	return source && source->flags == (RT_HOST | RT_LOCAL);
}

static __always_inline int begin(struct __sk_buff *skb, struct config *config, enum hook hook, struct packet *packet,
				 __be32 peer)
{
	enum caller caller = hook == FROM_TUNNEL ? TUNNELLED : hook == FROM_UPLINK ? OUTSIDE : INSIDE;
	struct flow to = packet->flow, asked;
	struct frontend *frontend;
	struct backend *backend;
	struct route *route;
	struct way there, back;
	int verdict;

	/* Is it for a service? */
	frontend = find_frontend(to.daddr, to.dport, to.proto);
	if (frontend) {
		if (frontend->flags & FE_SOURCE_RANGES && frontend->count && !in_ip_set(frontend->ranges, to.saddr))
			return drop(skb, hook, DROP_SOURCE);
		backend = choose_backend(frontend, caller, to.saddr);
		if (!backend && frontend->count == 0)   /* a closed port; with the policy Local, silence */
			return refuse(skb, hook, packet, DROP_NO_BACKEND, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, 0,
				      to.daddr);
		if (!backend)
			return drop(skb, hook, DROP_NO_BACKEND);
		to.daddr = backend->addr;
		to.dport = backend->port;
		if (to.daddr == to.saddr)
			to.saddr = config->node;        /* a pod that reaches itself: else it would answer to itself */
	} else if (hook == FROM_TUNNEL && !is_behind(config, peer, to.saddr)) {
		return drop(skb, hook, DROP_SOURCE);
	}

	/* Which way? */
	route = route_to(to.daddr);
	there = way_to(config, hook, route);
	if (hook == FROM_TUNNEL && there.path == PATH_TUNNEL)
		return drop(skb, hook, DROP_NO_BACKEND);        /* what came by the tunnel never leaves by it */
	if (hook == FROM_UPLINK && !(route && route->flags & RT_LOCAL)) {
		if (!frontend || !route)
			return TC_ACT_OK;               /* not for this node: the stack's business */
		/* The backend is on another node. That node translates, so send it the packet as it came. */
		to = packet->flow;
		there = (struct way){ .path = PATH_TUNNEL, .target = route->node };
		count(skb, hook, COUNT_TUNNELLED);
	}
	back = way_back(skb, config, hook, packet->flow.saddr, peer, frontend);
	if (hook == TO_UPLINK && frontend && route && route->flags == (RT_HOST | RT_LOCAL)) {
		there.path = back.path = PATH_HOST;
		to.saddr = packet->flow.daddr;          /* else the answer would never come by here */
	}
	if (hook == TO_WORKLOAD || (hook == TO_UPLINK && there.path == PATH_OUT))
		there.path = PATH_STACK;                /* it is on that way already */
	if (!frontend && there.path == PATH_STACK && hook != TO_WORKLOAD && hook != FROM_WORKLOAD)
		return TC_ACT_OK;                       /* the host's own connections need no entry */

	/* May it? Policy means the client itself, also where that is the backend. A node may talk to its own pods, always. */
	asked = to;
	asked.saddr = packet->flow.saddr;
	if (hook == FROM_WORKLOAD) {
		struct route *source = route_to(packet->flow.saddr);

		if (!source || source->flags != (RT_LOCAL | RT_WORKLOAD) || source->ifindex != skb->ifindex)
			return drop(skb, hook, DROP_SOURCE);
		if (!egress_allowed(skb->ifindex, &asked))
			return drop(skb, hook, DROP_POLICY);
	}
	if (!is_own(hook, asked.saddr) && (hook == TO_WORKLOAD || there.path == PATH_LOCAL) &&
	    !ingress_allowed(hook == TO_WORKLOAD ? skb->ifindex : there.target, &asked))
		return drop(skb, hook, DROP_POLICY);

	/* Remember it, and go. */
	if (!fits(skb, config, hook, packet, there, &verdict))
		return verdict;
	if (add_connection(skb, packet, &to, there, back))
		return drop(skb, hook, DROP_ERROR);
	count(skb, hook, COUNT_NEW);
	if (frontend)
		count(skb, hook, COUNT_TRANSLATED);
	SAY(config, CONFIG_LOG_INFO, "if %d: new connection %x -> %x", skb->ifindex, bpf_ntohl(packet->flow.saddr),
	    bpf_ntohl(to.daddr));
	if (rewrite(skb, packet, &to))
		return drop(skb, hook, DROP_ERROR);
	return send(skb, config, hook, packet, there);
}

/* A packet in the middle of a connection that we do not know. The host's connection tracking may: the connection
 * may be older than these programs. A service's address that it does not know either would only go in circles.
 */
static __always_inline int fall_through(struct __sk_buff *skb, struct config *config, enum hook hook,
					struct packet *packet, __be32 peer)
{
	if (hook == FROM_TUNNEL && !is_behind(config, peer, packet->flow.saddr))
		return drop(skb, hook, DROP_SOURCE);
	if (packet->flow.daddr != config->node && is_arriving(hook)) {
		count(skb, hook, COUNT_FALLTHROUGH);
		mark(skb, MARK_FALLTHROUGH);
	}
	return TC_ACT_OK;
}

/* --- The five programs ----------------------------------------------------------------------------------- */

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

char LICENSE[] SEC("license") = "GPL";
