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
#define PROCEED 1
#define REFUSE 0

/* An application expects "connection refused" from a service without backends, not "operation not permitted". */
static __always_inline int refuse(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_set_retval))  /* Linux 5.18 */
		bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

static __always_inline int translate(struct bpf_sock_addr *ctx, __u8 proto)
{
	struct socket_key key = { .cookie = bpf_get_socket_cookie(ctx) };
	struct backend seen = { .addr = ctx->user_ip4, .port = ctx->user_port };
	struct frontend *frontend = find_frontend(seen.addr, seen.port, proto);
	struct backend *backend;

	if (!frontend)
		return PROCEED;
	/* The socket may have no address yet: its network namespace says which pod it is. */
	backend = choose_backend(frontend, INSIDE, bpf_get_netns_cookie(ctx) | 1ULL << 63);
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

static __always_inline bool udp_too(void)
{
	struct config *config = the_config();

	return config && config->flags & CONFIG_CONNECT_UDP;
}

SEC("cgroup/connect4")
int cali_connect4(struct bpf_sock_addr *ctx)
{
	if (ctx->protocol == PROTO_TCP)
		return translate(ctx, PROTO_TCP);
	if (ctx->protocol == PROTO_UDP && udp_too())
		return translate(ctx, PROTO_UDP);
	return PROCEED;
}

SEC("cgroup/getpeername4")
int cali_getpeername4(struct bpf_sock_addr *ctx)
{
	return translate_back(ctx);
}

/* UDP without connect(): the address is in each message. Attached only when UDP is load balanced here. */
SEC("cgroup/sendmsg4")
int cali_sendmsg4(struct bpf_sock_addr *ctx)
{
	return translate(ctx, PROTO_UDP);
}

SEC("cgroup/recvmsg4")
int cali_recvmsg4(struct bpf_sock_addr *ctx)
{
	return translate_back(ctx);
}

char LICENSE[] SEC("license") = "GPL";
