"""What is true of a cluster's networking: pure data, read in one go."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from labkit.errors import NotFoundError
from labkit.kube import Kube, Obj

DataPlane = Literal["vanilla", "iptables", "ebpf"]

OPERATOR_NAMESPACE = "tigera-operator"
CALICO_NAMESPACE = "calico-system"
ENDPOINT_CONFIGMAP = "kubernetes-services-endpoint"
INSTALLATIONS = "installations.operator.tigera.io"
STATUSES = "tigerastatuses.operator.tigera.io"
FELIX_GROUPS = ("projectcalico.org", "crd.projectcalico.org")
"""Calico's API server serves the first; without it, as on AKS, the second is what there is."""
BPF_ANNOTATION = "operator.tigera.io/bpfEnabled"
ADDON = "addonmanager.kubernetes.io/mode"
"""AKS's add-on manager takes back what others change in objects that carry this label with `Reconcile`."""
OURS = {"app.kubernetes.io/managed-by": "labkit"}
"""The label of an Installation that a plan of ours has made, and may therefore remove."""


@dataclass(frozen=True)
class NetworkProfile:
    """What Azure says about a cluster's network. All is empty where there is no Azure to ask.

    Args:
        plugin: "azure", "kubenet" or "none" (bring your own).
        policy: "none", "calico", "azure" or "cilium".
        dataplane: "azure" or "cilium".
        pod_cidr: the range of pods' addresses, where it is not the VNet's.
    """

    plugin: str = ""
    policy: str = ""
    dataplane: str = ""
    pod_cidr: str = ""

    @classmethod
    def of(cls, cluster: Mapping[str, Any] | None) -> NetworkProfile:
        """The profile in a managed cluster as Azure returns it; Azure is not consistent about upper case."""
        found = (cluster or {}).get("properties", {}).get("networkProfile") or {}
        return cls(
            plugin=str(found.get("networkPlugin") or "").lower(),
            policy=str(found.get("networkPolicy") or ("none" if found else "")).lower(),
            dataplane=str(found.get("networkDataplane") or "").lower(),
            pod_cidr=str(found.get("podCidr") or ""))


@dataclass(frozen=True)
class DaemonSetFacts:
    """A daemon set, as far as the plans look at it.

    Args:
        desired: pods that should run.
        ready: pods that are available.
        settled: whether the last change has rolled out.
        selector: the pod template's node selector.
        env: the environment that its first container is given in clear text.
        image: its first container's image.
        managed: whether the add-on manager takes back what others change.
        words: its first container's command and arguments.
    """

    desired: int
    ready: int
    settled: bool
    selector: dict[str, str]
    env: dict[str, str]
    image: str
    managed: bool
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Condition:
    """A condition of a TigeraStatus."""

    component: str
    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True)
class ClusterFacts:
    """What was observed of a cluster.

    Args:
        version: Kubernetes' version, such as "v1.20.2".
        nodes: names of its nodes.
        api_host: the API server's name, as its kubeconfig has it; its address where that is only for this machine.
        api_port: its port.
        operator_version: tigera-operator's image tag, or None without an operator.
        calico_version: calico-node's image tag, or None without Calico.
        provider: Installation's kubernetesProvider, such as "AKS".
        node_address: Installation's nodeAddressAutodetectionV4.
        endpoint: data of the ConfigMap kubernetes-services-endpoint; None where there is none.
        bpf_enabled: FelixConfiguration's bpfEnabled; None where it says nothing.
        bpf_annotation: what the operator last wrote there; None where it never did.
        felix: FelixConfiguration's spec.
        felix_group: the group that serves FelixConfiguration, or None.
        kube_proxy: its daemon set, or None.
        calico_node: its daemon set, or None.
        conditions: what the operator says about itself.
        network: what Azure says about the cluster's network.
        installed: whether there is an Installation.
        managed: whether AKS's add-on manager owns the operator or its Installation.
        ours: whether a plan of ours made the Installation.
        pools: the ranges that the Installation lists for pods' addresses.
        bootstrap: Installation's bpfNetworkBootstrap.
        proxy_management: Installation's kubeProxyManagement.
        without_operator: whether a calico-node runs that no operator made, as Calico's manifests make it.
    """

    version: str
    nodes: tuple[str, ...]
    api_host: str
    api_port: int
    operator_version: str | None
    calico_version: str | None
    provider: str
    node_address: dict[str, object]
    endpoint: dict[str, str] | None
    bpf_enabled: bool | None
    bpf_annotation: str | None
    felix: dict[str, object]
    felix_group: str | None
    kube_proxy: DaemonSetFacts | None
    calico_node: DaemonSetFacts | None
    conditions: tuple[Condition, ...]
    network: NetworkProfile = NetworkProfile()
    installed: bool = False
    managed: bool = False
    ours: bool = False
    pools: tuple[str, ...] = ()
    bootstrap: str | None = None
    proxy_management: str | None = None
    without_operator: bool = False

    @property
    def proxy_mode(self) -> str:
        """kube-proxy's mode, such as "iptables" or "ipvs"; "" where there is no kube-proxy."""
        if self.kube_proxy is None:
            return ""
        words = " ".join(self.kube_proxy.words)
        found = re.search(r"--proxy-mode[= ](\w+)", words)
        return found[1].lower() if found else "iptables"

    @property
    def bpf_written(self) -> bool | None:
        """What the operator last wrote as bpfEnabled."""
        return {"true": True, "false": False}.get(self.bpf_annotation or "")

    @property
    def hand_set(self) -> bool:
        """Whether bpfEnabled is not what the operator last wrote: somebody else has set it."""
        return self.bpf_written is not self.bpf_enabled

    @property
    def dataplane(self) -> DataPlane:
        """Which data plane carries the cluster's services now."""
        if self.calico_node is None:
            return "vanilla"
        return "ebpf" if self.bpf_enabled else "iptables"

    @property
    def felix_resource(self) -> str:
        """FelixConfiguration as kubectl names it in full."""
        return f"felixconfigurations.{self.felix_group or FELIX_GROUPS[1]}"

    def condition(self, type: str, component: str = "calico") -> Condition | None:
        """A condition of the operator's, such as "Degraded"."""
        for condition in self.conditions:
            if condition.component == component and condition.type == type:
                return condition
        return None


def observe(kube: Kube, network: NetworkProfile | None = None) -> ClusterFacts:
    """Read all that the planners and the doctor look at.

    Args:
        kube: the cluster.
        network: what Azure says about its network, where there is Azure.
    """
    with ThreadPoolExecutor(max_workers=10) as pool:
        version = pool.submit(kube.version)
        nodes = pool.submit(kube.list, "nodes")
        operator = pool.submit(kube.find, "deployments.apps", "tigera-operator", OPERATOR_NAMESPACE)
        proxy = pool.submit(kube.find, "daemonsets.apps", "kube-proxy", "kube-system")
        node = pool.submit(kube.find, "daemonsets.apps", "calico-node", CALICO_NAMESPACE)
        installation = pool.submit(kube.find, INSTALLATIONS, "default")
        other = pool.submit(kube.find, "daemonsets.apps", "calico-node", "kube-system")
        endpoint = pool.submit(kube.find, "configmaps", ENDPOINT_CONFIGMAP, OPERATOR_NAMESPACE)
        statuses = pool.submit(_list, kube, STATUSES)
        felix = pool.submit(_felix, kube)
        api_host, api_port = _api_server(kube)
        felix_group, felix_object = felix.result()
        annotations = (felix_object or {}).get("metadata", {}).get("annotations") or {}
        owner = installation.result() or {}
        spec = owner.get("spec") or {}
        calico = spec.get("calicoNetwork") or {}
        calico_node = daemon_set(node.result())
        endpoint_object = endpoint.result()
        return ClusterFacts(
            version=version.result(),
            nodes=tuple(n["metadata"]["name"] for n in nodes.result()),
            api_host=api_host, api_port=api_port,
            operator_version=_tag(_image(operator.result())),
            calico_version=_tag(calico_node.image) if calico_node else None,
            provider=str(spec.get("kubernetesProvider", "")),
            node_address=dict(calico.get("nodeAddressAutodetectionV4") or {}),
            endpoint=dict(endpoint_object.get("data") or {}) if endpoint_object else None,
            bpf_enabled=(felix_object or {}).get("spec", {}).get("bpfEnabled"),
            bpf_annotation=annotations.get(BPF_ANNOTATION),
            felix=dict((felix_object or {}).get("spec") or {}), felix_group=felix_group,
            kube_proxy=daemon_set(proxy.result()), calico_node=calico_node,
            conditions=tuple(_conditions(statuses.result())),
            network=network or NetworkProfile(), installed=bool(owner),
            managed="Reconcile" in (_labels(operator.result()).get(ADDON), _labels(owner).get(ADDON)),
            ours=_labels(owner).items() >= OURS.items(),
            pools=tuple(p.get("cidr", "") for p in calico.get("ipPools") or ()),
            bootstrap=calico.get("bpfNetworkBootstrap"), proxy_management=calico.get("kubeProxyManagement"),
            without_operator=other.result() is not None,
        )


def _api_server(kube: Kube) -> tuple[str, int]:
    """The API server as nodes reach it.

    That is as the kubeconfig has it, but for a loopback address, which is another one on each node: kind forwards a
    port of this machine to the control plane's container. What the API server says of itself is in its own service.
    """
    url = urlsplit(kube.host)
    host, port = url.hostname or "", url.port or 443
    if not is_loopback(host):
        return host, port
    for item in kube.list("endpointslices.discovery.k8s.io", "default",
                          label_selector="kubernetes.io/service-name=kubernetes"):
        for address in (a for endpoint in item.get("endpoints") or () for a in endpoint.get("addresses") or ()):
            return str(address), int(item["ports"][0]["port"])
    return host, port


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine itself, wherever it is asked for."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return found.is_loopback or found.is_unspecified


def lacks_network(node: Obj) -> bool:
    """Whether a node is not ready because nobody has installed a CNI plugin on it."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] != "True" and "NetworkPluginNotReady" in c.get("message", "")
               for c in conditions)


def dataplane(kube: Kube) -> DataPlane:
    """Which data plane a cluster's services use now: "vanilla", "iptables" or "ebpf"."""
    return observe(kube).dataplane


def service_tables(kube: Kube) -> dict[str, str]:
    """What each node's calico-node shows of its eBPF service table, by node; "" where it has none.

    Args:
        kube: the cluster.
    """
    return ask_nodes(kube, "calico-node", "-bpf", "nat", "dump")


def ask_nodes(kube: Kube, *argv: str) -> dict[str, str]:
    """What a command prints in each node's calico-node, by node; "" where it fails.

    Args:
        kube: the cluster.
        argv: the command.
    """
    pods = kube.list("pods", CALICO_NAMESPACE, label_selector="k8s-app=calico-node")
    running = [p for p in pods if p.get("status", {}).get("phase") == "Running"
               and not p["metadata"].get("deletionTimestamp")]
    said = {}
    for pod in running:
        output = kube.exec(pod["metadata"]["name"], CALICO_NAMESPACE, list(argv), container="calico-node", check=False,
                           timeout=30)
        said[pod["spec"].get("nodeName", "?")] = "" if output.exit_code else output.stdout.strip()
    return said


def daemon_set(obj: Obj | None) -> DaemonSetFacts | None:
    """The facts of a daemon set; None of None."""
    if obj is None:
        return None
    status, pod = obj.get("status", {}), obj["spec"]["template"]["spec"]
    container = (pod.get("containers") or [{}])[0]
    desired = status.get("desiredNumberScheduled", 0)
    ready, updated = status.get("numberAvailable", 0), status.get("updatedNumberScheduled", 0)
    seen = status.get("observedGeneration", 0) >= obj["metadata"].get("generation", 0)
    return DaemonSetFacts(
        desired=desired, ready=ready,
        settled=seen and ready >= desired and updated >= desired,
        selector=dict(pod.get("nodeSelector") or {}),
        env={e["name"]: e["value"] for e in container.get("env") or [] if "value" in e},
        image=container.get("image", ""),
        managed=_labels(obj).get(ADDON) == "Reconcile",
        words=(*(container.get("command") or ()), *(container.get("args") or ())),
    )


def version_key(version: str | None) -> tuple[int, ...]:
    """A version as numbers, so that versions compare; () where there is none."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version or "")
    return tuple(int(part or 0) for part in found.groups()) if found else ()


def _felix(kube: Kube) -> tuple[str | None, Obj | None]:
    for group in FELIX_GROUPS:
        try:
            return group, kube.get(f"felixconfigurations.{group}", "default")
        except NotFoundError:
            continue
    return None, None


def _list(kube: Kube, resource: str) -> list[Obj]:
    try:
        return kube.list(resource)
    except NotFoundError:
        return []


def _conditions(statuses: list[Obj]) -> list[Condition]:
    return [Condition(s["metadata"]["name"], c["type"], c["status"], c.get("reason", ""), c.get("message", ""))
            for s in statuses for c in s.get("status", {}).get("conditions") or []]


def _labels(obj: Obj | None) -> dict[str, str]:
    return (obj or {}).get("metadata", {}).get("labels") or {}


def _image(obj: Obj | None) -> str:
    containers = (obj or {}).get("spec", {}).get("template", {}).get("spec", {}).get("containers") or [{}]
    return str(containers[0].get("image", ""))


def _tag(image: str) -> str | None:
    name, _, tag = image.rpartition(":")
    return tag if name and "/" not in tag else None
