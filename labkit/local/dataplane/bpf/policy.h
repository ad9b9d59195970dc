/* Policy: the first rule that matches decides, as in Calico. Asked once, when a connection begins. */
#pragma once
#include "packet.h"

enum verdict { NO_MATCH, ALLOW, DENY };

static __always_inline bool port_matches(struct rule *rule, __u16 port)
{
	bool matches = rule->ports_count == 0;

#pragma unroll
	for (int i = 0; i < MAX_PORTS; i++)
		matches |= i < rule->ports_count && port >= rule->ports[i].low && port <= rule->ports[i].high;
	return matches;
}

/* What one rule says. A global function: the verifier checks it once, and not again for each turn of the loop. */
__noinline int ask_rule(__u32 policy, __u32 index, __u8 proto, __be32 other, __u16 port)
{
	struct rule_key key = { .policy = policy, .index = index };
	struct rule *rule = bpf_map_lookup_elem(&cali_policy, &key);

	if (!rule)
		return DENY;            /* the end of the list */
	if (rule->proto && rule->proto != proto)
		return NO_MATCH;
	if (!port_matches(rule, port))
		return NO_MATCH;
	if (rule->nets && !in_ip_set(rule->nets, other))
		return NO_MATCH;
	if (rule->not_nets && in_ip_set(rule->not_nets, other))
		return NO_MATCH;
	return rule->action == RULE_ALLOW ? ALLOW : DENY;
}

/* `other` is the far end: the client of an ingress list, the server of an egress list. */
static __always_inline bool allowed(__u32 policy, __u8 proto, __be32 other, __u16 port)
{
	int verdict;

	if (policy == 0)
		return true;
	for (__u32 i = 0; i < MAX_RULES; i++) {
		verdict = ask_rule(policy, i, proto, other, port);
		if (verdict != NO_MATCH)
			return verdict == ALLOW;
	}
	return false;
}

static __always_inline bool egress_allowed(__u32 ifindex, struct flow *flow)
{
	struct iface *iface = bpf_map_lookup_elem(&cali_iface, &ifindex);

	return !iface || allowed(iface->egress, flow->proto, flow->daddr, bpf_ntohs(flow->dport));
}

static __always_inline bool ingress_allowed(__u32 ifindex, struct flow *flow)
{
	struct iface *iface = bpf_map_lookup_elem(&cali_iface, &ifindex);

	return !iface || allowed(iface->ingress, flow->proto, flow->saddr, bpf_ntohs(flow->dport));
}
