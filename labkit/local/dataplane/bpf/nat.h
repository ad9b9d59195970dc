/* Load balancing: from a frontend to one of its backends. Shared by connect.c and tc.c. */
#pragma once
#include "maps.h"

#define AFFINITY_WALK 256       /* how many backends are searched for one that has moved to another index */

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
	key.addr = NODE_PORT;
	return bpf_map_lookup_elem(&cali_v4_nat_fe, &key);
}

/* Where among backends first .. end-1 of a service one is now; negative: the service has it no longer. Endpoints that
 * come and go move the others to another index: a client stays with its backend, not with a number. Not inlined, so
 * that the verifier walks through it once.
 */
__noinline int index_of(__u32 id, __u32 first, __u32 end, __u32 addr, __u32 port)
{
	struct backend_key key = { .id = id, .index = first };
	struct backend *backend;
	__u32 i;

	for (i = 0; i < AFFINITY_WALK && key.index < end; i++, key.index++) {
		backend = bpf_map_lookup_elem(&cali_v4_nat_be, &key);
		if (backend && backend->addr == addr && backend->port == port)
			return key.index;
	}
	return -1;
}

/* Choose a backend. NULL: there is none that this caller may have. A client stays with it for `affinity` seconds. */
static __always_inline struct backend *choose_for(struct frontend *frontend, enum caller caller, __u64 client,
						  __u32 affinity)
{
	struct affinity_key affinity_key = { .client = client, .id = frontend->id };
	struct backend_key key = { .id = frontend->id };
	__u32 first = 0, end = frontend->count;
	struct affinity *known;
	struct backend *backend;
	__u64 now = 0;

	if (caller == TUNNELLED ||
	    (caller == OUTSIDE && frontend->flags & FE_EXTERNAL_LOCAL) ||
	    (caller == INSIDE && frontend->flags & FE_INTERNAL_LOCAL))
		end = frontend->local;
	else if (frontend->flags & FE_LOCAL_LEAVING)
		first = frontend->local;
	if (first >= end)
		return NULL;

	if (affinity) {
		now = bpf_ktime_get_ns();
		known = bpf_map_lookup_elem(&cali_v4_nat_aff, &affinity_key);
		if (known && now - known->since < affinity * 1000000000ULL) {
			int index = index_of(frontend->id, first, end, known->backend.addr, known->backend.port);

			if (index >= 0) {
				known->since = now;
				return &known->backend;
			}
		}
	}

	key.index = first + bpf_get_prandom_u32() % (end - first);
	backend = bpf_map_lookup_elem(&cali_v4_nat_be, &key);
	if (backend && affinity) {
		struct affinity chosen = { .since = now, .backend = *backend };

		bpf_map_update_elem(&cali_v4_nat_aff, &affinity_key, &chosen, BPF_ANY);
	}
	return backend;
}

static __always_inline struct backend *choose_backend(struct frontend *frontend, enum caller caller, __u64 client)
{
	return choose_for(frontend, caller, client, frontend->affinity);
}
