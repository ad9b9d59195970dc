/* Load balancing: from a frontend to one of its backends. Shared by connect.c and tc.c. */
#pragma once
#include "maps.h"

enum caller {
	INSIDE,                 /* a pod or a host process of the cluster */
	OUTSIDE,                /* a packet that came in by the uplink */
	TUNNELLED,              /* one that another node sent here, because a backend is here */
};

static __always_inline struct frontend *find_frontend(__be32 addr, __be16 port, __u8 proto)
{
	struct frontend_key key = { .addr = addr, .port = port, .proto = proto };
	struct frontend *frontend = bpf_map_lookup_elem(&cali_v4_nat_fe, &key);
	struct route *route;

	if (frontend)
		return frontend;
	route = route_to(addr);
	if (!route || !(route->flags & RT_HOST))
		return NULL;
	key.addr = 0;           /* a node port? */
	return bpf_map_lookup_elem(&cali_v4_nat_fe, &key);
}

/* Choose a backend. NULL: there is none that this caller may have. */
static __always_inline struct backend *choose_backend(struct frontend *frontend, enum caller caller, __u64 client)
{
	struct affinity_key affinity_key = { .client = client, .id = frontend->id };
	struct backend_key key = { .id = frontend->id };
	__u32 count = frontend->count;
	struct affinity *known;
	struct backend *backend;
	__u64 now = 0;

	if (caller == TUNNELLED ||
	    (caller == OUTSIDE && frontend->flags & FE_EXTERNAL_LOCAL) ||
	    (caller == INSIDE && frontend->flags & FE_INTERNAL_LOCAL))
		count = frontend->local;
	if (count == 0)
		return NULL;

	if (frontend->affinity) {
		now = bpf_ktime_get_ns();
		known = bpf_map_lookup_elem(&cali_v4_nat_aff, &affinity_key);
		if (known && known->index < count && now - known->since < frontend->affinity * 1000000000ULL) {
			key.index = known->index;
			backend = bpf_map_lookup_elem(&cali_v4_nat_be, &key);
			if (backend && backend->addr == known->backend.addr && backend->port == known->backend.port) {
				known->since = now;
				return backend;
			}
		}
	}

	key.index = bpf_get_prandom_u32() % count;
	backend = bpf_map_lookup_elem(&cali_v4_nat_be, &key);
	if (backend && frontend->affinity) {
		struct affinity chosen = { .since = now, .index = key.index, .backend = *backend };

		bpf_map_update_elem(&cali_v4_nat_aff, &affinity_key, &chosen, BPF_ANY);
	}
	return backend;
}
