/* The first packet of a connection: load balanced, asked about policy, and remembered. */
#pragma once
#include "nat.h"
#include "policy.h"
#include "send.h"

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
	struct route *source = is_leaving(hook) ? route_to(sender) : NULL;

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
	bool moved;

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
	if (hook == TO_UPLINK && frontend && route && route->flags == (RT_HOST | RT_LOCAL))
		there.path = PATH_HOST;
	if (hook == TO_WORKLOAD || (hook == TO_UPLINK && there.path == PATH_OUT) || (hook == TO_LOOPBACK && !frontend))
		there.path = PATH_STACK;                /* it is on that way already */
	moved = avoid_collision(&packet->flow, &to);
	if (!frontend && !moved && there.path == PATH_STACK && hook != TO_WORKLOAD && hook != FROM_WORKLOAD)
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
	if (packet->flow.daddr != config->node && !is_leaving(hook)) {
		count(skb, hook, COUNT_FALLTHROUGH);
		mark(skb, MARK_FALLTHROUGH);
	}
	return TC_ACT_OK;
}
