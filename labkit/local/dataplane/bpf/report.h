/* What a program says of a packet: a mark for the next hook, a counter, a line in the trace pipe. */
#pragma once
#include "packet.h"

enum hook { FROM_WORKLOAD, TO_WORKLOAD, FROM_UPLINK, TO_UPLINK, FROM_TUNNEL, TO_LOOPBACK };

/* A mark on a packet that was dealt with, so that the next hook lets it pass. The bits are Calico's. */
#define MARK_SEEN 0x1000000
#define MARK_FALLTHROUGH 0x5000000
#define MARK_MASK 0xf000000

static __always_inline void mark(struct __sk_buff *skb, __u32 value)
{
	skb->mark = (skb->mark & ~MARK_MASK) | value;
}

/* Whether a hook is an interface's egress. */
static __always_inline bool is_leaving(enum hook hook)
{
	return hook == TO_WORKLOAD || hook == TO_UPLINK || hook == TO_LOOPBACK;
}

static __always_inline void count(struct __sk_buff *skb, enum hook hook, enum counter which)
{
	/* The verifier wants fields of the packet's context read off the context itself; else the compiler keeps their
	 * addresses for later.
	 */
	asm volatile("" : "+r"(skb));
	struct counter_key key = { .ifindex = skb->ifindex, .hook = is_leaving(hook) };
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
