/* What the programs know: every map, with its keys and values.
 *
 * The agent (felix) writes nat_fe, nat_be, routes, ip_sets, policy, iface and config; the programs write
 * ct, nat_aff, ct_nats, frags, state, counters and rule_ctrs. Names are Calico's where Calico has the map, so what you
 * see here is what `bpftool map` shows on a real cluster; the layouts are simpler. Addresses and ports are in network order.
 */
#pragma once
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

/* --- Services: cali_v4_nat_fe says how many backends a frontend has, cali_v4_nat_be lists them. ---------- */

#define NODE_PORT 0xffffffff    /* 255.255.255.255, as Calico has it */

struct frontend_key {
	__be32 addr;            /* NODE_PORT: any address that a node has */
	__be16 port;
	__u8 proto;
	__u8 pad;
};

enum {
	FE_EXTERNAL_LOCAL = 1,  /* externalTrafficPolicy: Local */
	FE_INTERNAL_LOCAL = 2,  /* internalTrafficPolicy: Local */
	FE_SOURCE_RANGES = 4,   /* loadBalancerSourceRanges: the client must be in ip set `ranges` */
	FE_LOCAL_LEAVING = 8,   /* the local backends are shutting down: only for callers that may have no other */
};

struct frontend {
	__u32 id;               /* of the service port; the key of its backends */
	__u16 count;            /* backends 0 .. count-1 ... */
	__u16 local;            /* ... of which the first `local` run on this node */
	__u32 affinity;         /* seconds that a client stays with its backend; 0 for none */
	__u32 flags;
	__u32 ranges;
};

struct backend_key {
	__u32 id;
	__u32 index;
};

struct backend {
	__be32 addr;
	__be16 port;
	__u16 pad;
};

struct affinity_key {
	__u64 client;           /* its address; at connect time, where there is none yet, its network namespace */
	__u32 id;
	__u32 pad;
};

struct affinity {
	__u64 since;
	__u32 index;
	struct backend backend; /* index may have been given to another backend in the meantime */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
} cali_v4_nat_fe SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct backend_key);
	__type(value, struct backend);
} cali_v4_nat_be SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} cali_v4_nat_aff SEC(".maps");

/* --- Connection tracking: one entry for each direction of a connection. ---------------------------------- */

struct flow {
	__be32 saddr, daddr;
	__be16 sport, dport;    /* both the identifier, for an ICMP echo; 0 where a protocol has none */
	__u8 proto;
	__u8 pad[3];
};

enum way_kind {
	PATH_STACK,             /* on through the host's network stack */
	PATH_LOCAL,             /* straight into the pod behind interface `ifindex` */
	PATH_OUT,               /* straight out of the node's uplink */
	PATH_TUNNEL,            /* over VXLAN to `node` */
	PATH_HOST,              /* back into the host that it is leaving: both ends are there */
};

struct connection {
	struct flow to;         /* what the packet leaves as: its own key, unless it is translated */
	__u8 path;
	__u8 tcp_flags;         /* all that were seen in this direction */
	__u16 pad;
	union {
		__u32 ifindex;
		__be32 node;
	};
	__u64 created, seen;    /* nanoseconds since boot */
	__u64 packets, bytes;
};

struct fragment_key {
	__be32 saddr, daddr;
	__be16 id;
	__u8 proto;
	__u8 pad;
};

struct fragment {
	__be16 sport, dport;    /* only the first fragment of a datagram carries them */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow);
	__type(value, struct connection);
} cali_v4_ct SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} cali_v4_frags SEC(".maps");

/* --- The packet at hand. ------------------------------------------------------------------------------- */

struct packet {
	struct flow flow;
	__u32 l4;               /* offset of the TCP or UDP header; 0 where the packet does not carry one */
	__u32 quoted;           /* in an ICMP error, offset of the IP header that it quotes; else 0 */
	__be32 reporter;        /* who sent that error */
	__u8 tcp_flags;
	__u8 ttl;
	bool starts;            /* may begin a connection */
	bool whole;             /* may be answered with an ICMP error */
	bool dont_fragment;
};

/* In a map and not on the stack, because what the verifier reads from a map it knows nothing about:
 * so it goes through the programs once, and not once for each kind of packet. Calico's programs do the same.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packet);
} cali_state SEC(".maps");

/* --- Sockets that were translated at connect time, so that they still see the service's address. --------- */

struct socket_key {
	__u64 cookie;
	__be32 addr;            /* the backend's */
	__be16 port;
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct socket_key);
	__type(value, struct backend);  /* here: the frontend's address and port */
} cali_v4_ct_nats SEC(".maps");

/* --- Routes: who has an address. ------------------------------------------------------------------------- */

struct route_key {
	__u32 prefixlen;
	__be32 addr;
};

enum {                          /* Calico's values */
	RT_WORKLOAD = 0x04,
	RT_LOCAL = 0x08,
	RT_HOST = 0x10,
};

struct route {
	__u32 flags;
	union {
		__be32 node;    /* a remote workload's or host's */
		__u32 ifindex;  /* a local workload's */
	};
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct route_key);
	__type(value, struct route);
} cali_v4_routes SEC(".maps");

/* --- Policy: an interface has a list of rules in each direction, a rule names sets of addresses. --------- */

#define MAX_RULES 256
#define MAX_PORTS 8

enum { RULE_ALLOW = 1, RULE_DENY = 2, RULE_LOG = 3 };

struct rule_key {
	__u32 policy;           /* id of a list, made from its content: endpoints with the same rules share one */
	__u32 index;
};

struct port_range {
	__u16 low, high;        /* host order */
};

struct rule {
	__u8 action;
	__u8 proto;             /* 0: any */
	__u8 ports_count;       /* 0: any port */
	__u8 pad;
	__u32 nets;             /* ip set that has the other end; 0: anyone */
	__u32 not_nets;         /* ip set that must not have it; 0: none */
	__u32 id;               /* of the policy's rule that it is, or is part of: counts in cali_rule_ctrs; 0: none */
	struct port_range ports[MAX_PORTS];
};

struct iface {
	__u32 ingress;          /* id of the list for connections to the pod; 0: all are allowed */
	__u32 egress;
};

struct ip_set_key {
	__u32 prefixlen;        /* 32 for the set, and the length of the net in it */
	__u32 set;
	__be32 addr;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct rule_key);
	__type(value, struct rule);
} cali_policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 10000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);             /* a rule's id */
	__type(value, __u64);           /* connections that it decided about, or logged */
} cali_rule_ctrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);             /* ifindex */
	__type(value, struct iface);
} cali_iface SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ip_set_key);
	__type(value, __u32);           /* always 1 */
} cali_v4_ip_sets SEC(".maps");

/* --- The agent's settings, and counters. ----------------------------------------------------------------- */

enum {
	CONFIG_DSR = 1,         /* bpfExternalServiceMode: DSR */
	CONFIG_DRAIN = 2,       /* coming or going: translated connections only, all else is for the host's stack */
	CONFIG_CONNECT_UDP = 4, /* bpfConnectTimeLoadBalancing: Enabled */
	CONFIG_LOG_INFO = 8,    /* bpfLogLevel: connections that begin, and what is dropped, go to the trace pipe */
	CONFIG_LOG_DEBUG = 16,  /* ... and every packet */
	CONFIG_OVERLAY = 32,    /* pods have addresses that the network does not know: between nodes by VXLAN */
};

struct config {
	__be32 node;            /* this node's address */
	__u32 uplink;           /* ifindex of its uplink, and of its VXLAN device */
	__u32 vxlan;
	__u32 vni;
	__be16 vxlan_port;
	__u16 tunnel_mtu;       /* of an IP packet that fits into the tunnel */
	__u32 flags;
	__u32 dsr_optout;       /* ip set of clients that DSR is not for */
	__be32 gateway;         /* the next hop of all that leaves by the uplink; 0 where routes differ */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} cali_config SEC(".maps");

enum counter {
	COUNT_NEW,              /* connections that got an entry in cali_v4_ct */
	COUNT_TRANSLATED,       /* those of them that were for a service */
	COUNT_TUNNELLED,        /* those of them that went to another node */
	COUNT_FALLTHROUGH,      /* packets in the middle of a connection that the host's stack may know */
	DROP_POLICY,
	DROP_NO_BACKEND,
	DROP_SOURCE,            /* a pod that lies about its address, a VXLAN packet of no node, source ranges */
	DROP_TTL,               /* answered with an ICMP error, as the next one */
	DROP_TOO_BIG,
	DROP_ERROR,
	COUNTERS,
};

struct counter_key {
	__u32 ifindex;
	__u32 hook;             /* 0 ingress, 1 egress of the interface */
};

struct counters {
	__u64 of[COUNTERS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct counter_key);
	__type(value, struct counters);
} cali_counters SEC(".maps");

static __always_inline struct config *the_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cali_config, &zero);
}

static __always_inline struct route *route_to(__be32 addr)
{
	struct route_key key = { .prefixlen = 32, .addr = addr };

	return bpf_map_lookup_elem(&cali_v4_routes, &key);
}

static __always_inline int in_ip_set(__u32 set, __be32 addr)
{
	struct ip_set_key key = { .prefixlen = 64, .set = set, .addr = addr };

	return bpf_map_lookup_elem(&cali_v4_ip_sets, &key) != NULL;
}
