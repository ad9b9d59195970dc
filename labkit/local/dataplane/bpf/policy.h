/* Policy: the first rule that matches decides, as in Calico. Asked once, when a connection begins. */
#pragma once
#include "packet.h"

enum verdict { NO_MATCH, ALLOW, DENY, LOG };

static __always_inline bool port_matches(struct rule *rule, __u16 port)
{
	bool matches = rule->ports_count == 0;

#pragma unroll
	for (int i = 0; i < MAX_PORTS; i++)
		matches |= i < rule->ports_count && port >= rule->ports[i].low && port <= rule->ports[i].high;
	return matches;
}

static __always_inline void count_hit(__u32 id)
{
	__u64 one = 1, *hits = bpf_map_lookup_elem(&cali_rule_ctrs, &id);

	if (hits)
		(*hits)++;
	else
		bpf_map_update_elem(&cali_rule_ctrs, &id, &one, BPF_NOEXIST);
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
	if (rule->id)
		count_hit(rule->id);
	return rule->action == RULE_LOG ? LOG : rule->action == RULE_ALLOW ? ALLOW : DENY;
}

/* `other` is the far end: the client of an ingress list, the server of an egress list. A rule that logs decides
 * nothing: what became of the connection is said at the end, to the trace pipe, as Calico does since v3.29.1.
 */
static __always_inline bool allowed(__u32 policy, struct flow *flow, __be32 other)
{
	static const char yes[] = "calico: policy ALLOWED %x -> %x port %d", no[] = "calico: policy DENIED %x -> %x port %d";
	__u32 from = bpf_ntohl(flow->saddr), to = bpf_ntohl(flow->daddr);
	__u16 port = bpf_ntohs(flow->dport);
	int verdict = NO_MATCH;
	bool logged = false;

	if (policy == 0)
		return true;
	for (__u32 i = 0; i < MAX_RULES; i++) {
		verdict = ask_rule(policy, i, flow->proto, other, port);
		if (verdict == ALLOW || verdict == DENY)
			break;
		logged |= verdict == LOG;
	}
	if (logged && verdict == ALLOW)
		bpf_trace_printk(yes, sizeof(yes), from, to, port);
	else if (logged)
		bpf_trace_printk(no, sizeof(no), from, to, port);
	return verdict == ALLOW;
}

static __always_inline bool egress_allowed(__u32 ifindex, struct flow *flow)
{
	struct iface *iface = bpf_map_lookup_elem(&cali_iface, &ifindex);

	return !iface || allowed(iface->egress, flow, flow->daddr);
}

static __always_inline bool ingress_allowed(__u32 ifindex, struct flow *flow)
{
	struct iface *iface = bpf_map_lookup_elem(&cali_iface, &ifindex);

	return !iface || allowed(iface->ingress, flow, flow->saddr);
}
