"""Felix: keeps one node's data plane as the API says, in iptables or in eBPF, and switches between them.

A switch never leaves a gap: the new data plane is complete before the old one goes, and connections that
exist stay with whatever translates them until they end.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from labkit.local.dataplane import conntrack
from labkit.local.dataplane.calico_iptables import (
    ALLOWED,
    JUMPS,
    SET_PREFIX,
    CalicoIptables,
    CalicoRules,
    build,
    build_bpf_mode,
)
from labkit.local.dataplane.ebpf import EbpfDataplane
from labkit.local.dataplane.ebpf_load import LoadError
from labkit.local.dataplane.felix import FelixConfig, logs_in_bpf
from labkit.local.dataplane.iptables import Iptables, remove_chains
from labkit.local.dataplane.iptables_guard import Guard, SetGuard
from labkit.local.dataplane.kubeproxy import CANARY
from labkit.local.dataplane.overlay import Overlay, OverlayRoutes
from labkit.local.programs.felix_datastore import Datastore
from labkit.local.programs.httphealth import HealthServers, ServiceHealth, proxy_health

log = logging.getLogger("felix")

Mode = Literal["iptables", "bpf"]

HANDOVER = 35.0         # seconds that services wait for kube-proxy; it looks after its rules every 30


class Felix:
    """The agent's state and its one thread's work: after events `apply`, and now and then `tick`.

    Args:
        node: this node's name.
        environment: FELIX_* parameters and LABKIT_* places.
        health: where health ports are served.
        report: where to say what was put back after somebody changed it by hand.
    """

    def __init__(self, node: str, environment: Mapping[str, str], health: HealthServers,
                 report: Callable[[Sequence[str]], None] = lambda repaired: None) -> None:
        self.api, self._environment = Datastore(node, environment), environment
        self._logs_in_bpf = logs_in_bpf(environment)
        self.mode: Mode | None = None            # what is programmed; None before the first apply
        self.trouble = "not in sync yet"         # why the data plane is not what it should be, or ""
        self.turned_at = 0.0                     # time.monotonic() of the last call of `apply`
        self._iptables = Iptables()
        self._calico = CalicoIptables(self._iptables)
        self._overlay_routes = OverlayRoutes(self._iptables)
        self._overlay_written: Overlay | None = None
        self._guard = Guard(self._iptables, "filter", "cali-", JUMPS, ALLOWED)
        self._set_guard = SetGuard(SET_PREFIX)
        self._chains: CalicoRules | None = None  # what was written last
        self._ordered = b""                      # stamp of the table in which our chains were the first
        self._report, self._owners = report, dict[str, str]()
        self._ebpf: EbpfDataplane | None = None
        self._servers, self._service_health = health, ServiceHealth(health)
        self._healthz_port = 0
        self._attached_config: FelixConfig | None = None
        self._announced: Mode | None = None
        self._hand_over_by = 0.0                 # time.monotonic() until when kube-proxy is waited for; 0: no
        self._broken = False                     # the last apply failed: the next one writes everything

    def apply(self) -> None:
        """Bring the data plane to what the API says; what fails is tried again at the next call."""
        self.turned_at = time.monotonic()
        for warning in self.api.policies.warnings:
            log.warning("%s", warning)
        self.api.policies.warnings.clear()
        wanted: Mode = "bpf" if self.api.config.bpf_enabled else "iptables"
        if self._announced != wanted:
            self._announced = wanted
            log.info("BPF enabled, starting BPF endpoint manager and map manager." if wanted == "bpf"
                     else "BPF disabled, not starting BPF endpoint manager and map manager.")
        everything = self._broken or self.mode != wanted
        try:
            if self.api.node not in self.api.nodes:
                raise RuntimeError(f'node "{self.api.node}" has no InternalIP yet')
            if wanted == "iptables" and self.mode == "bpf" and self._waits_for_kube_proxy():
                self._apply_bpf(False)
                self.trouble = ""
                return
            self._hand_over_by = 0.0
            self._forget_connections()
            self._apply_overlay(everything)
            if wanted == "bpf":
                self._apply_bpf(everything)
            else:
                self._apply_iptables(everything)
        except (OSError, RuntimeError, LoadError, subprocess.SubprocessError) as error:
            if str(error) != self.trouble:
                log.error("Failed to program the %s data plane, will retry: %s", wanted, error)
            self.trouble, self._broken = str(error) or repr(error), True
            return
        if everything:
            log.info("Data plane is in sync (%s, %d local pods)", wanted, len(self.api.policies.local_pods()))
        self.trouble, self._broken = "", False

    @property
    def handing_over(self) -> bool:
        """Whether eBPF goes as soon as kube-proxy has written its rules: `apply` is to be called often."""
        return self._hand_over_by > 0

    def _waits_for_kube_proxy(self) -> bool:
        """Whether services would have nobody if eBPF let go of them now.

        A kube-proxy that never comes back is waited for no longer than one takes to notice that its rules are gone.
        """
        if not self._hand_over_by:
            self._hand_over_by = time.monotonic() + HANDOVER
            self._stop_proxy_health()            # kube-proxy needs these ports when it starts
        # The canary of the last table is what kube-proxy writes last.
        return time.monotonic() < self._hand_over_by and not self._iptables.has_chain("filter", CANARY)

    def settle(self) -> None:
        """Look after the node once another program there has had the time to write its rules."""
        self.api.disturbed_at = 0.0
        self.look_after()
        try:
            if self.mode == "bpf" and not self.handing_over:
                self._clean_up_kube_proxy()      # one that was leaving may have written once more
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            log.error("Failed to clean up kube-proxy's rules, will retry: %s", error)

    def look_after(self) -> None:
        """Every few seconds: put back what somebody removed or changed by hand, and say so.

        A data plane that is being left is not touched: what is missing there may have been removed on purpose.
        """
        if self.mode is None or self._broken:
            return
        try:
            # First what is missing, then what mends it: the eBPF data plane makes a device anew, but not as it was.
            overlay = self._overlay_written
            gone = self._overlay_routes.missing(overlay, self.api.config.vxlan_vni) if overlay else []
            if self.mode == "bpf" and self._ebpf:
                gone = [*dict.fromkeys([*gone, *self._ebpf.repair()])]
            if overlay and gone:
                self._overlay_routes.apply(overlay, vni=self.api.config.vxlan_vni, port=self.api.config.vxlan_port)
            if gone:
                self._say("data plane", gone)
            wanted = self._bpf_chains(self._ebpf) if self.mode == "bpf" and self._ebpf else self._chains
            if wanted is not None:
                self._write_chains(wanted, compare=True)
            if self._iptables.stamp("filter") != self._ordered and self._calico.hook(insert=False):
                log.warning("Detected out-of-sync inserts, resyncing: our chains were not the first")
            self._ordered = self._iptables.stamp("filter")
        except (OSError, RuntimeError, LoadError, subprocess.SubprocessError) as error:
            log.error("Failed to check the %s data plane, will retry: %s", self.mode, error)
            self._broken = True                  # half of it may be back: write everything

    def _write_chains(self, wanted: CalicoRules, *, everything: bool = False, compare: bool = False) -> None:
        """Bring iptables to `wanted`, and put back what others changed there."""
        disturbed = [self._guard.changed(compare=compare), self._set_guard.changed()]
        if everything or any(disturbed):
            self._calico.forget()
        self._chains = wanted
        if (text := self._calico.apply(wanted)) is None:
            return
        repaired = [*self._guard.wrote(text), *self._set_guard.wrote(any_set=bool(wanted.sets))]
        if repaired and not everything:
            self._say("filter table", repaired)

    def _say(self, what: str, repaired: Sequence[str]) -> None:
        log.warning("Detected out-of-sync %s, resyncing: %s", what, "; ".join(repaired))
        self._report(repaired)

    def tick(self) -> None:
        """Every ten seconds: housekeeping."""
        try:
            if self._ebpf:
                self._ebpf.tick()
            if self.mode == "bpf" and not self.handing_over:
                self._serve_proxy_health()
        except (OSError, RuntimeError, LoadError, subprocess.SubprocessError) as error:
            log.error("Housekeeping failed, will retry: %s", error)
        self.apply()
        self.settle()

    def _forget_connections(self) -> None:
        """Of addresses that are another pod's now, or nobody's: policy lets pass what the kernel knows already."""
        if not self.api.policies.dirty:
            return
        before, self._owners = self._owners, self.api.policies.owners()
        conntrack.flush(conntrack.of_addresses(
            ip for ip, pod in before.items() if self._owners.get(ip) != pod))

    def _apply_overlay(self, everything: bool) -> None:
        overlay = self.api.overlay
        if overlay is None or (overlay == self._overlay_written and not everything):
            return
        self._overlay_routes.apply(overlay, vni=self.api.config.vxlan_vni, port=self.api.config.vxlan_port)
        self._overlay_written = overlay

    def _apply_iptables(self, everything: bool) -> None:
        if everything or self.api.policies.dirty:
            self._write_chains(build(self.api.policies.endpoints().values(),
                                     interface_prefix=self.api.config.interface_prefix,
                                     endpoint_to_host=self.api.config.default_endpoint_to_host_action.upper(),
                                     vxlan_port=self.api.config.vxlan_port),
                               everything=everything)
        self.api.services.changed()              # kube-proxy's business in this mode
        if everything:
            if self._ebpf or self._pinned():
                self._bpf().detach(keep_tunnel=self.api.overlay is not None)
                self._attached_config = None
            self._stop_proxy_health()
            self.mode = "iptables"

    def _apply_bpf(self, everything: bool) -> None:
        bpf = self._bpf()
        changed = self.api.services.changed()
        if everything:
            bpf.apply_services(self.api.services.items())
        elif changed:
            bpf.apply_services((key, self.api.services.get(key)) for key in changed)
        if everything or self.api.policies.dirty or self.api.routes_dirty:
            endpoints = self.api.policies.endpoints()
            bpf.apply_policy(endpoints if self._logs_in_bpf
                             else {name: one.without_logs() for name, one in endpoints.items()})
            remote = {ip: self.api.nodes[node] for ip, node in self.api.policies.remote_pods().items()
                      if node in self.api.nodes}
            overlay = self.api.overlay
            remote |= overlay.tunnels() if overlay else {}
            own = (overlay.tunnel,) if overlay and overlay.tunnel else ()
            bpf.apply_routes(dict(self.api.nodes), self.api.policies.local_pods(), remote, own)
            self.api.routes_dirty = False
        if everything or self.api.config != self._attached_config:
            bpf.attach(self.api.config)
            self._attached_config = self.api.config
            if not everything and not self.handing_over:
                self._clean_up_kube_proxy()      # it may have been asked for just now
        chains = self._bpf_chains(bpf)
        if everything or chains != self._chains:
            # Only now does iptables let go: the programs are attached and their maps are full.
            self._write_chains(chains, everything=everything)
        if everything:
            self._clean_up_kube_proxy()
            self.mode = "bpf"
        if (everything or changed) and not self.handing_over:
            self._serve_proxy_health()

    def _bpf_chains(self, bpf: EbpfDataplane) -> CalicoRules:
        return build_bpf_mode(bpf.interfaces, interface_prefix=self.api.config.interface_prefix,
                              vxlan_port=self.api.config.vxlan_port)

    def _bpf(self) -> EbpfDataplane:
        if self._ebpf is None:
            places = [self._environment.get(name, "")
                      for name in ("LABKIT_BPFFS", "LABKIT_CGROUP", "LABKIT_BPF_OBJECTS")]
            if not all(places):
                raise RuntimeError("BPF mode needs LABKIT_BPFFS, LABKIT_CGROUP and LABKIT_BPF_OBJECTS, which"
                                   " the kubelet gives to privileged pods on the host's network")
            bpffs, cgroup, objects = map(Path, places)
            self._ebpf = EbpfDataplane(bpffs=bpffs, cgroup=cgroup, objects=objects,
                                       node_ip=self.api.nodes[self.api.node], node_name=self.api.node, log=log)
        return self._ebpf

    def _pinned(self) -> bool:
        """Whether an earlier process left programs attached."""
        bpffs = self._environment.get("LABKIT_BPFFS")
        return bool(bpffs) and (Path(str(bpffs)) / "maps").exists()

    def _clean_up_kube_proxy(self) -> None:
        if not self.api.config.bpf_kube_proxy_iptables_cleanup_enabled:
            return
        if self._iptables.has_chain("nat", "KUBE-SERVICES"):
            log.info("BPF enabled, configuring iptables layer to clean up kube-proxy's rules.")
            for table in ("nat", "filter", "mangle"):
                remove_chains(self._iptables, table, ("KUBE-",))

    # --- health checks that kube-proxy serves otherwise

    def _serve_proxy_health(self) -> None:
        self._service_health.sync(self.api.services.health_ports(self.api.node))
        port = self.api.config.bpf_kube_proxy_healthz_port
        if port == self._healthz_port:
            return
        self._stop_healthz()
        if not port:
            return
        try:
            self._servers.serve("0.0.0.0", port, lambda path: proxy_health(path, time.time()))
            self._healthz_port = port
        except OSError as error:
            log.error("BPF Proxy Healthz server failed, restarting error=failed to start proxier healthz on"
                      " :%d: listen tcp :%d: bind: %s", port, port, os.strerror(error.errno or 0).lower())

    def _stop_healthz(self) -> None:
        if self._healthz_port:
            self._servers.stop("0.0.0.0", self._healthz_port)
            self._healthz_port = 0

    def _stop_proxy_health(self) -> None:
        self._service_health.sync({})
        self._stop_healthz()
