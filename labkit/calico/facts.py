"""What is true of a cluster's networking: pure data, read in one go."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal
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
    """

    desired: int
    ready: int
    settled: bool
    selector: dict[str, str]
    env: dict[str, str]
    image: str
    managed: bool


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
        api_host: the API server's name, as its kubeconfig has it.
        api_port: its port.
        operator_version: tigera-operator's image tag, or None without an operator.
        calico_version: calico-node's image tag, or None without Calico.
        provider: Installation's kubernetesProvider, such as "AKS".
        linux_dataplane: Installation's linuxDataplane, such as "Iptables"; None where it says nothing.
        node_address: Installation's nodeAddressAutodetectionV4.
        endpoint: data of the ConfigMap kubernetes-services-endpoint; None where there is none.
        bpf_enabled: FelixConfiguration's bpfEnabled; None where it says nothing.
        bpf_annotation: what the operator last wrote there; None where it never did.
        felix: FelixConfiguration's spec.
        felix_group: the group that serves FelixConfiguration, or None.
        kube_proxy: its daemon set, or None.
        calico_node: its daemon set, or None.
        conditions: what the operator says about itself.
    """

    version: str
    nodes: tuple[str, ...]
    api_host: str
    api_port: int
    operator_version: str | None
    calico_version: str | None
    provider: str
    linux_dataplane: str | None
    node_address: dict[str, object]
    endpoint: dict[str, str] | None
    bpf_enabled: bool | None
    bpf_annotation: str | None
    felix: dict[str, object]
    felix_group: str | None
    kube_proxy: DaemonSetFacts | None
    calico_node: DaemonSetFacts | None
    conditions: tuple[Condition, ...]

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


def observe(kube: Kube) -> ClusterFacts:
    """Read all that the planners and the doctor look at.

    Args:
        kube: the cluster.
    """
    with ThreadPoolExecutor(max_workers=10) as pool:
        version = pool.submit(kube.version)
        nodes = pool.submit(kube.list, "nodes")
        operator = pool.submit(kube.find, "deployments.apps", "tigera-operator", OPERATOR_NAMESPACE)
        proxy = pool.submit(kube.find, "daemonsets.apps", "kube-proxy", "kube-system")
        calico = pool.submit(kube.find, "daemonsets.apps", "calico-node", CALICO_NAMESPACE)
        installation = pool.submit(kube.find, INSTALLATIONS, "default")
        endpoint = pool.submit(kube.find, "configmaps", ENDPOINT_CONFIGMAP, OPERATOR_NAMESPACE)
        statuses = pool.submit(_list, kube, STATUSES)
        felix = pool.submit(_felix, kube)
        url = urlsplit(kube.host)
        felix_group, felix_object = felix.result()
        annotations = (felix_object or {}).get("metadata", {}).get("annotations") or {}
        network = (installation.result() or {}).get("spec", {}).get("calicoNetwork") or {}
        calico_node = daemon_set(calico.result())
        endpoint_object = endpoint.result()
        return ClusterFacts(
            version=version.result(),
            nodes=tuple(n["metadata"]["name"] for n in nodes.result()),
            api_host=url.hostname or "", api_port=url.port or 443,
            operator_version=_tag(_image(operator.result())),
            calico_version=_tag(calico_node.image) if calico_node else None,
            provider=str((installation.result() or {}).get("spec", {}).get("kubernetesProvider", "")),
            linux_dataplane=network.get("linuxDataplane"),
            node_address=dict(network.get("nodeAddressAutodetectionV4") or {}),
            endpoint=dict(endpoint_object.get("data") or {}) if endpoint_object else None,
            bpf_enabled=(felix_object or {}).get("spec", {}).get("bpfEnabled"),
            bpf_annotation=annotations.get(BPF_ANNOTATION),
            felix=dict((felix_object or {}).get("spec") or {}), felix_group=felix_group,
            kube_proxy=daemon_set(proxy.result()), calico_node=calico_node,
            conditions=tuple(_conditions(statuses.result())),
        )


def dataplane(kube: Kube) -> DataPlane:
    """Which data plane a cluster's services use now: "vanilla", "iptables" or "ebpf"."""
    return observe(kube).dataplane


def service_tables(kube: Kube) -> dict[str, str]:
    """What each node's calico-node shows of its eBPF service table, by node; "" where it has none.

    Args:
        kube: the cluster.
    """
    pods = kube.list("pods", CALICO_NAMESPACE, label_selector="k8s-app=calico-node")
    running = [p for p in pods if p.get("status", {}).get("phase") == "Running"
               and not p["metadata"].get("deletionTimestamp")]
    tables = {}
    for pod in running:
        output = kube.exec(pod["metadata"]["name"], CALICO_NAMESPACE, ["calico-node", "-bpf", "nat", "dump"],
                           container="calico-node", check=False, timeout=30)
        tables[pod["spec"].get("nodeName", "?")] = "" if output.exit_code else output.stdout.strip()
    return tables


def daemon_set(obj: Obj | None) -> DaemonSetFacts | None:
    """The facts of a daemon set; None of None."""
    if obj is None:
        return None
    status, pod = obj.get("status", {}), obj["spec"]["template"]["spec"]
    container = (pod.get("containers") or [{}])[0]
    desired = status.get("desiredNumberScheduled", 0)
    ready, updated = status.get("numberAvailable", 0), status.get("updatedNumberScheduled", 0)
    seen = status.get("observedGeneration", 0) >= obj["metadata"].get("generation", 0)
    labels = obj["metadata"].get("labels") or {}
    return DaemonSetFacts(
        desired=desired, ready=ready,
        settled=seen and ready >= desired and updated >= desired,
        selector=dict(pod.get("nodeSelector") or {}),
        env={e["name"]: e["value"] for e in container.get("env") or [] if "value" in e},
        image=container.get("image", ""),
        managed=labels.get("addonmanager.kubernetes.io/mode") == "Reconcile",
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


def _image(obj: Obj | None) -> str:
    containers = (obj or {}).get("spec", {}).get("template", {}).get("spec", {}).get("containers") or [{}]
    return str(containers[0].get("image", ""))


def _tag(image: str) -> str | None:
    name, _, tag = image.rpartition(":")
    return tag if name and "/" not in tag else None
