"""kube-proxy in iptables mode: watches services and endpoint slices and programs its node.

It runs in its node's network namespace and stops like the real one: the rules stay when the process goes.

In one thing it is kinder than the real one, which notices every 30 seconds that its canary chains are gone and puts a
single rule back at its next full sync only: this one sees a rule that somebody deleted within seconds.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from labkit.local.client import ApiError
from labkit.local.dataplane import conntrack
from labkit.local.dataplane.calico_iptables import BPF_MODE
from labkit.local.dataplane.iptables import Iptables, IptablesError, remove_chains
from labkit.local.dataplane.iptables_guard import Guard
from labkit.local.dataplane.kubeproxy import (
    CANARIES,
    CANARY,
    JUMPS,
    SERVICE_CHAINS,
    ProxyConfig,
    build,
    named,
    only,
)
from labkit.local.dataplane.services import OURS, Key, ServicePort, ServiceTable
from labkit.local.programs import logs
from labkit.local.programs.events import Events
from labkit.local.programs.httphealth import HealthServers, Reply, ServiceHealth, proxy_health
from labkit.local.programs.kubeclient import HttpClient
from labkit.local.programs.repairs import PERIOD, Repairs

log = logging.getLogger("kube-proxy")

BURST = 2               # syncs that may follow each other without a pause
MONITOR_PERIOD = 30.0   # how often the canaries are looked at, kube-proxy's default syncPeriod


class Proxier:
    """The services of a cluster as rules of one namespace.

    Args:
        config: what the rules depend on.
        iptables: the namespace.
        partial: write only the chains of services that changed, as kube-proxy does since 1.28.
    """

    def __init__(self, config: ProxyConfig, iptables: Iptables, *, partial: bool) -> None:
        self.table = ServiceTable()
        self.syncs, self.seconds, self.synced_at = 0, 0.0, 0.0
        self.pending_since = 0.0      # time.time() of the oldest change that is not programmed
        self._config, self._iptables, self._partial = config, iptables, partial
        self._known: set[str] | None = None
        self._pending: set[Key] = set()
        self._udp: dict[Key, tuple[ServicePort, ...]] = {}
        self._guards = [Guard(iptables, table, "KUBE-", [jump[1:] for jump in JUMPS if jump[0] == table],
                              everything=self._everything) for table in ("nat", "filter", "mangle")]
        self._ports: tuple[ServicePort, ...] = ()       # what was programmed last
        self._disturbed = False       # others changed our chains
        self._failed = False          # the last sync: what is wrong now may be its half of the work

    @property
    def dirty(self) -> bool:
        """Whether there is something to program."""
        self._pending |= self.table.changed()
        if self._pending:
            self.pending_since = self.pending_since or time.time()
        return self._known is None or self._disturbed or bool(self._pending)

    @property
    def healthy(self) -> bool:
        """Whether no change waits for too long. Any thread may ask."""
        return not self.pending_since or time.time() - self.pending_since < 2 * MONITOR_PERIOD

    def sync(self) -> list[str]:
        """Program what changed, or everything, and what others changed by hand.

        Returns:
            What others had changed by hand and is back, in words.

        Raises:
            IptablesError: the rules were refused; the next sync writes all of them.
        """
        started = time.monotonic()
        taken_away = any([guard.changed(compare=False) for guard in self._guards]) and self._taken_away()
        changed, first = self._pending | self.table.changed(), self._known is None or taken_away
        broken: dict[str, frozenset[str]] = {} if first else {g.table: g.broken for g in self._guards if g.broken}
        self._pending = changed       # until it is done
        known = self._known
        if first or known is None:
            known = {chain for chain in self._iptables.chains("nat") if chain.startswith(SERVICE_CHAINS)}
        known |= {chain for chain in broken.get("nat", ()) if chain.startswith(SERVICE_CHAINS)}
        partial, ports = self._partial and not first, tuple(self.table.all())
        rules = build(ports, self._config, known, changed if partial else None)
        text = rules.text
        if broken and changed and not partial:
            text += only(CANARIES, broken)
        elif broken:
            ours = named(text) if changed else {}
            text = only(build(ports, self._config, known).text + CANARIES,
                        {table: broken.get(table, frozenset()) | ours.get(table, set()) for table in {*broken, *ours}})
        failed, self._failed, self._known = self._failed, True, None     # a failure leaves us not knowing
        if text.strip():              # else only built-in chains are to be mended
            self._iptables.restore(text)
        for table, chains in broken.items():
            for chain in chains & {chain for _, chain, _ in JUMPS}:          # in their order: a drop before an accept
                self._iptables.put_first(table, chain, [jump[2] for jump in JUMPS if jump[:2] == (table, chain)])
        if first:
            for table, chain, rule in reversed(JUMPS):
                self._iptables.ensure_rule(table, chain, rule)
            self._iptables.restore(CANARIES)
            text += CANARIES
        repaired = [words for guard in self._guards for words in guard.wrote(text)]
        self._known, self._ports, self._pending, self._failed = rules.chains, ports, set(), False
        self._disturbed = False
        self._flush_udp(changed)
        self.synced_at, self.pending_since = time.time(), 0.0
        self.seconds += time.monotonic() - started
        self.syncs += 1
        log.info("syncProxyRules took %.1fms (%d services, %s)", (time.monotonic() - started) * 1e3,
                 len(self.table), "repair" if broken else "partial" if partial else "full")
        return [] if taken_away or failed else repaired

    def _everything(self) -> str:
        """What was programmed, as if it had been written at once."""
        return build(self._ports, self._config).text + CANARIES

    def look_after(self) -> None:
        """Notice that somebody changed our chains by hand: then a sync is due.

        What Felix removes when eBPF takes services over was removed on purpose. A kube-proxy that runs all the same
        writes it again when it looks at its canaries, as the real one does, and not before.
        """
        if self._known is not None and any([guard.changed() for guard in self._guards]) and not self._taken_away():
            self._disturbed = True

    def _taken_away(self) -> bool:
        """Whether whole tables of ours are gone and Felix is there in BPF mode."""
        return (not all(self._iptables.has_chain(table, CANARY) for table in ("nat", "filter"))
                and BPF_MODE in self._iptables.save("filter"))

    def check_canaries(self) -> None:
        """Notice that somebody flushed our tables, and program everything again."""
        for table in ("mangle", "nat", "filter"):
            if self._known is not None and not self._iptables.has_chain(table, CANARY):
                log.info("iptables canary %s/%s deleted", table, CANARY)
                self._known = None

    def health_ports(self) -> dict[int, tuple[str, str, int]]:
        """The health check node ports to serve."""
        return self.table.health_ports(self._config.node_name)

    def _flush_udp(self, changed: set[Key]) -> None:
        for key in changed:
            ports = tuple(port for port in self.table.get(key) if port.protocol == "UDP")
            before = self._udp.pop(key, ())
            if ports:
                self._udp[key] = ports
            conntrack.flush(conntrack.stale_udp(before, ports))


class Pace:
    """A bounded frequency: at most one run in each period, and a few at once after a rest."""

    def __init__(self, period: float, burst: int = BURST) -> None:
        self.period, self._burst = period, burst
        self._tokens, self._at = float(burst), time.monotonic()

    def wait(self) -> float:
        """Seconds until the next run may begin; 0 takes the turn."""
        now = time.monotonic()
        if self.period <= 0:
            return 0.0
        self._tokens = min(self._burst, self._tokens + (now - self._at) / self.period)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) * self.period


def cleanup(iptables: Iptables) -> int:
    """Remove everything that kube-proxy made; say how many chains that was."""
    return sum(remove_chains(iptables, table, ("KUBE-",)) for table in ("nat", "filter", "mangle"))


def main(argv: list[str] | None = None) -> int:
    """Run until stopped."""
    options = _options(sys.argv[1:] if argv is None else argv)
    logs.set_up(logs.Klog(), logging.DEBUG if options.v >= 4 else logging.INFO)
    iptables = Iptables()
    if options.cleanup:
        log.info("Removed %d chains", cleanup(iptables))
        return 0
    client = (HttpClient(options.master, user_agent="kube-proxy") if options.master
              else HttpClient.in_cluster(user_agent="kube-proxy"))
    events = Events(client)
    stop = events.stop_on_signals()
    if options.proxy_mode not in ("", "iptables"):
        log.warning('Proxy mode "%s" is not available, using iptables', options.proxy_mode)
    minor = _api_minor(client, stop)
    config = ProxyConfig(options.hostname_override, os.environ.get("HOST_IP", ""), options.cluster_cidr,
                         options.masquerade_all)
    if not config.cluster_cidr:
        log.warning("cluster CIDR is not specified, unable to distinguish between internal and external"
                    " traffic")
    log.info("Using iptables Proxier.")
    log.info("iptables %s, node %s", iptables.variant, config.node_name)
    _set_sysctls()
    proxier = Proxier(config, iptables, partial=minor >= 28)
    servers = _serve(proxier, options, today=minor >= 28)
    events.watch("services", proxier.table.on_service, label_selector=OURS)
    events.watch("endpointslices.discovery.k8s.io", proxier.table.on_slice, label_selector=OURS)
    health = ServiceHealth(servers, lambda: proxier.healthy, today=minor >= 28)
    report = Repairs(client, "kube-proxy", config.node_name)
    _run(proxier, events, health, Pace(options.iptables_min_sync_period), stop, report)
    return 0


def _run(proxier: Proxier, events: Events, health: ServiceHealth, pace: Pace, stop: threading.Event,
         report: Callable[[Sequence[str]], None]) -> None:
    look_again = time.monotonic() + MONITOR_PERIOD
    look_after = time.monotonic() + PERIOD
    timeout = 0.05
    ready = False
    while not stop.is_set():
        events.handle(timeout)
        if not ready:
            ready = events.synced
            continue
        if time.monotonic() >= look_again:
            proxier.check_canaries()
            look_again = time.monotonic() + MONITOR_PERIOD
        if time.monotonic() >= look_after:
            try:
                proxier.look_after()
            except IptablesError as error:
                log.error("Failed to look after the rules: %s", error)
            look_after = time.monotonic() + PERIOD
        timeout = min(look_again, look_after) - time.monotonic()
        if not proxier.dirty:
            continue
        if (turn := pace.wait()) > 0:
            timeout = min(timeout, turn)
            continue
        try:
            if repaired := proxier.sync():
                log.warning("Chains were changed by others, wrote them again: %s", "; ".join(repaired))
                report(repaired)
            health.sync(proxier.health_ports())
        except IptablesError as error:
            log.error("Failed to execute iptables-restore: %s", error)
            timeout = 1.0


def _serve(proxier: Proxier, options: argparse.Namespace, *, today: bool) -> HealthServers:
    servers = HealthServers()

    def healthz(path: str) -> Reply:
        return proxy_health(path, proxier.synced_at, healthy=proxier.healthy, today=today)

    def metrics(path: str) -> tuple[int, str]:
        if path == "/proxyMode":
            return 200, "iptables"
        name = "kubeproxy_sync_proxy_rules_duration_seconds"
        return 200, (f"# TYPE {name} histogram\n{name}_sum {proxier.seconds}\n{name}_count {proxier.syncs}\n"
                     f"kubeproxy_sync_proxy_rules_last_timestamp_seconds {proxier.synced_at}\n")

    for address, answer in ((options.healthz_bind_address, healthz), (options.metrics_bind_address, metrics)):
        host, _, port = address.rpartition(":")
        try:
            servers.serve(host or "0.0.0.0", int(port), answer)
        except OSError as error:
            log.error("Failed to start server on %s: %s", address, error)
    return servers


def _api_minor(client: HttpClient, stop: threading.Event) -> int:
    """The API's minor version, which is also which kube-proxy we are; waits for the API."""
    said = ""
    while not stop.is_set():
        try:
            version = client.version()
            log.info("Version: %s", version["gitVersion"])
            return int(re.sub(r"\D.*", "", version["minor"]))
        except ApiError as error:
            if error.message != said:
                log.error("Failed to reach the API: %s", error.message)
            said = error.message
            stop.wait(0.5)
    sys.exit(0)


# Node ports answer on 127.0.0.1; and how many seconds the kernel knows a connection that says nothing for long, or
# that only one end has closed: kube-proxy's defaults, not the kernel's.
SYSCTLS = (("net/ipv4/conf/all/route_localnet", 1), ("net/netfilter/nf_conntrack_tcp_timeout_established", 24 * 3600),
           ("net/netfilter/nf_conntrack_tcp_timeout_close_wait", 3600))


def _set_sysctls() -> None:
    for name, value in SYSCTLS:
        try:
            Path("/proc/sys", name).write_text(str(value))
            log.info('Set sysctl "%s" to %d', name, value)
        except OSError as error:
            log.warning('Failed to set sysctl "%s": %s', name, error)


def _seconds(text: str) -> float:
    unit = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    match = re.fullmatch(r"([\d.]+)(ms|s|m|h)?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"invalid duration {text!r}")
    return float(match[1]) * unit[match[2] or "s"]


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("kube-proxy", allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--cluster-cidr", default="")
    parser.add_argument("--hostname-override", default=os.environ.get("NODE_NAME") or socket.gethostname())
    parser.add_argument("--master", default="", help="URL of an API that asks for no token")
    parser.add_argument("--proxy-mode", default="")
    parser.add_argument("--masquerade-all", nargs="?", const=True, default=False,
                        type=lambda text: text.lower() == "true")
    parser.add_argument("--iptables-min-sync-period", type=_seconds, default=1.0)
    parser.add_argument("--healthz-bind-address", default="0.0.0.0:10256")
    parser.add_argument("--metrics-bind-address", default="127.0.0.1:10249")
    parser.add_argument("--cleanup", action="store_true")
    parser.add_argument("-v", "--v", type=int, default=2)
    options, unknown = parser.parse_known_args(argv)
    if options.config and options.config.exists():
        _read_config(options)
    if unknown:
        log.info("Options without a meaning here: %s", " ".join(unknown))
    return options


def _read_config(options: argparse.Namespace) -> None:
    """Take the few scalars of a KubeProxyConfiguration that matter; what it sets wins over flags."""
    for line in options.config.read_text().splitlines():
        key, _, value = line.strip().partition(":")
        value = value.strip().strip("\"'")
        if not value:
            continue
        match key:
            case "clusterCIDR":
                options.cluster_cidr = value
            case "hostnameOverride":
                options.hostname_override = value
            case "masqueradeAll":
                options.masquerade_all = value == "true"
            case "mode":
                options.proxy_mode = value


if __name__ == "__main__":
    sys.exit(main())
