/* Connect-time load balancing: a service's address is exchanged for a backend's inside connect(), once.
 *
 * The kernel calls these programs for each process in the node's cgroup. After that the connection simply is one to
 * a pod: no packet of it has to be translated, in either direction. kube-proxy translates every packet.
 */
#include <linux/errno.h>
#include <stdbool.h>
#include <bpf/bpf_core_read.h>
#include "nat.h"

#define PROTO_TCP 6
#define PROTO_UDP 17
#define UDP_STICKY 60           /* seconds, as connection tracking keeps a flow of UDP together */
#define PROCEED 1
#define REFUSE 0

/* An application expects "connection refused" from a service without backends, not "operation not permitted". */
static __always_inline int refuse(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_set_retval))  /* Linux 5.18 */
		bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

/* `sticky`: how many seconds one socket's messages stay with one backend, where the service itself asks for none. */
static __always_inline int translate(struct bpf_sock_addr *ctx, __u8 proto, __u32 sticky)
{
	struct socket_key key = { .cookie = bpf_get_socket_cookie(ctx) };
	struct backend seen = { .addr = ctx->user_ip4, .port = ctx->user_port };
	struct frontend *frontend = find_frontend(seen.addr, seen.port, proto);
	struct backend *backend;

	if (!frontend)
		return PROCEED;
	if (frontend->flags & FE_SOURCE_RANGES && frontend->count)
		return PROCEED;         /* the socket may have no address yet; tc.c sees the packet's */
	/* Its network namespace says which pod it is. */
	if (frontend->affinity || !sticky)
		backend = choose_backend(frontend, INSIDE, bpf_get_netns_cookie(ctx) | 1ULL << 63);
	else
		backend = choose_for(frontend, INSIDE, key.cookie | 1ULL << 62, sticky);
	if (!backend)
		return refuse();
	key.addr = backend->addr;
	key.port = backend->port;
	bpf_map_update_elem(&cali_v4_ct_nats, &key, &seen, BPF_ANY);
	ctx->user_ip4 = backend->addr;
	ctx->user_port = backend->port;
	return PROCEED;
}

/* Show the application the address that it asked for. */
static __always_inline int translate_back(struct bpf_sock_addr *ctx)
{
	struct socket_key key = {
		.cookie = bpf_get_socket_cookie(ctx), .addr = ctx->user_ip4, .port = ctx->user_port,
	};
	struct backend *seen = bpf_map_lookup_elem(&cali_v4_ct_nats, &key);

	if (seen) {
		ctx->user_ip4 = seen->addr;
		ctx->user_port = seen->port;
	}
	return PROCEED;
}

/* Whether UDP to here is exchanged here, too. A node's own address is: what a node sends to itself, for one of its node
 * ports, never meets an interface with our programs.
 */
static __always_inline bool udp_too(struct bpf_sock_addr *ctx)
{
	struct config *config = the_config();
	struct route *route;

	if (config && config->flags & CONFIG_CONNECT_UDP)
		return true;
	route = route_to(ctx->user_ip4);
	return route && route->flags == (RT_HOST | RT_LOCAL);
}

SEC("cgroup/connect4")
int cali_connect4(struct bpf_sock_addr *ctx)
{
	if (ctx->protocol == PROTO_TCP)
		return translate(ctx, PROTO_TCP, 0);
	if (ctx->protocol == PROTO_UDP && udp_too(ctx))
		return translate(ctx, PROTO_UDP, 0);
	return PROCEED;
}

SEC("cgroup/getpeername4")
int cali_getpeername4(struct bpf_sock_addr *ctx)
{
	return translate_back(ctx);
}

/* UDP without connect(): the address is in each message. */
SEC("cgroup/sendmsg4")
int cali_sendmsg4(struct bpf_sock_addr *ctx)
{
	return udp_too(ctx) ? translate(ctx, PROTO_UDP, UDP_STICKY) : PROCEED;
}

SEC("cgroup/recvmsg4")
int cali_recvmsg4(struct bpf_sock_addr *ctx)
{
	return translate_back(ctx);
}

char LICENSE[] SEC("license") = "GPL";
