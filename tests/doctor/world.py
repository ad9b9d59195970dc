"""A cluster as the doctor reads it: objects by resource, logs by pod, without an API server."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from labkit.calico.facts import BPF_ANNOTATION
from labkit.doctor.snapshot import Snapshot, take
from labkit.errors import ExecError, KubeError, NotFoundError
from labkit.kube.client import Output

FQDN = "mycalicocl-calicodemo-03a087-1.hcp.canadaeast.azmk8s.io"
NODES = ("aks-1", "aks-2")
FELIX = "felixconfigurations.crd.projectcalico.org"
INSTALLATION = "installations.operator.tigera.io"
Obj = dict[str, Any]


class FakeKube:
    """The verbs that the doctor uses, over objects that a test may change first."""

    def __init__(self) -> None:
        self.host, self.kubectl = f"https://{FQDN}:443", "kubectl"
        self.objects: dict[str, list[Obj]] = {}
        self.texts: dict[str, str | None] = {}      # a pod's log; None: it cannot be read
        self.answers: dict[str, str | None] = {}    # what a command in a pod prints

    def add(self, resource: str, *objects: Obj) -> None:
        self.objects.setdefault(resource, []).extend(objects)

    def version(self) -> str:
        return "v1.36.2"

    def list(self, resource: str, namespace: str | None = None, *, label_selector: str | None = None,
             field_selector: str | None = None) -> list[Obj]:
        wanted = dict(pair.split("=") for pair in (label_selector or "").split(",") if pair)
        return [o for o in self.objects.get(resource, ()) if namespace in (None, o["metadata"].get("namespace"))
                and wanted.items() <= (o["metadata"].get("labels") or {}).items()]

    def find(self, resource: str, name: str, namespace: str | None = None) -> Obj | None:
        return next((o for o in self.list(resource, namespace) if o["metadata"]["name"] == name), None)

    def get(self, resource: str, name: str, namespace: str | None = None) -> Obj:
        found = self.find(resource, name, namespace)
        if found is None:
            raise NotFoundError(f"no {resource} {name}", code=404)
        return found

    def logs(self, pod: str, namespace: str, **_: object) -> str:
        text = self.texts.get(pod, "")
        if text is None:
            raise KubeError("the node does not answer", code=500)
        return text

    def exec(self, pod: str, namespace: str, argv: list[str], **_: object) -> Output:
        text = self.answers.get(pod)
        if text is None:
            raise ExecError("could not be started")
        return Output(0, text, "")


def meta(name: str, namespace: str = "default", **more: Any) -> Obj:
    return {"name": name, "namespace": namespace, "generation": 1, **more}


READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def pod(name: str, namespace: str, *, node: str = NODES[0], ip: str = "10.224.0.10", host: bool = False,
        status: Obj | None = None, owner: str = "", **labels: str) -> Obj:
    owners = [{"kind": "ReplicaSet", "name": owner}] if owner else []
    return {"metadata": meta(name, namespace, labels=labels, ownerReferences=owners),
            "spec": {"nodeName": node, "hostNetwork": host, "containers": [{"name": "main", "image": "an/image:1"}]},
            "status": {"phase": "Running", "podIP": ip, **(READY if status is None else status)}}


def daemon_set(name: str, namespace: str, image: str, *, desired: int = 2, ready: int | None = None,
               env: Obj | None = None, selector: Obj | None = None, labels: Obj | None = None,
               args: tuple[str, ...] = ()) -> Obj:
    variables = [{"name": key, "value": value} for key, value in (env or {}).items()]
    container = {"name": name, "image": image, "env": variables, "args": list(args)}
    counts = desired if ready is None else ready
    return {"metadata": meta(name, namespace, labels=labels or {}),
            "spec": {"template": {"spec": {"nodeSelector": selector or {}, "containers": [container]}}},
            "status": {"desiredNumberScheduled": desired, "numberAvailable": counts, "updatedNumberScheduled": desired,
                       "observedGeneration": 1}}


def service(name: str, *, kind: str = "ClusterIP", ports: tuple[Obj, ...] = ({"port": 80},), namespace: str = "shop",
            annotations: Obj | None = None, **spec: Any) -> Obj:
    return {"metadata": meta(name, namespace, annotations=annotations or {}),
            "spec": {"type": kind, "selector": {"app": name}, "ports": list(ports), **spec}}


def slice_of(name: str, *nodes: str, namespace: str = "shop") -> Obj:
    return {"metadata": meta(f"{name}-1", namespace, labels={"kubernetes.io/service-name": name}),
            "endpoints": [{"addresses": ["10.224.0.20"], "nodeName": node, "conditions": {"ready": True}}
                          for node in nodes]}


def degraded(component: str, reason: str, message: str) -> Obj:
    return {"metadata": {"name": component}, "status": {"conditions": [
        {"type": "Degraded", "status": "True", "reason": reason, "message": message}]}}


def cluster(*, operator: str | None = "v1.40.2", calico: str = "v3.31.2", ebpf: bool = True,
            change: Callable[[FakeKube], object] = lambda kube: None) -> FakeKube:
    """A healthy AKS cluster: today's, with kube-proxy beside Felix; `operator` v1.13.5 is the article's.

    Args:
        operator: its version; None for a cluster without Calico.
        calico: its version.
        ebpf: whether eBPF is on.
        change: what a test breaks.
    """
    kube = FakeKube()
    article = operator == "v1.13.5"
    kube.add("nodes", *({"metadata": {"name": n}, "spec": {"providerID": f"azure:///{n}"}, "status": READY}
                        for n in NODES))
    gone = article and ebpf
    kube.add("daemonsets.apps", daemon_set(
        "kube-proxy", "kube-system", "kube-proxy:v1", desired=0 if gone else 2,
        selector={"non-calico": "true"} if gone else {}, args=("--proxy-mode=iptables",),
        labels={"addonmanager.kubernetes.io/mode": "Reconcile"}))
    kube.add("services", service("web"), {"metadata": meta("kubernetes"), "spec": {"ports": [{"port": 443}]}})
    kube.add("endpointslices.discovery.k8s.io", slice_of("web", *NODES))
    kube.add("pods", *(pod(f"web-{n}", "shop", node=n, app="web", ip=f"10.224.0.{2 + i}0")
                       for i, n in enumerate(NODES)))
    if operator:
        env = {"KUBERNETES_SERVICE_HOST": FQDN, "KUBERNETES_SERVICE_PORT": "443"} if ebpf else {}
        kube.add("deployments.apps", {"metadata": meta("tigera-operator", "tigera-operator"), "spec": {"template": {
            "spec": {"containers": [{"image": f"oss/tigera/operator:{operator}"}]}}}})
        kube.add("pods", pod("operator-1", "tigera-operator", host=True))
        kube.add("daemonsets.apps", daemon_set("calico-node", "calico-system", f"oss/calico/node:{calico}", env=env))
        kube.add("pods", *(pod(f"calico-{n}", "calico-system", node=n, host=True, **{"k8s-app": "calico-node"})
                           for n in NODES))
        network: Obj = {"nodeAddressAutodetectionV4": {"canReach": "1.1.1.1"}}
        if not article:
            network["linuxDataplane"] = "BPF" if ebpf else "Iptables"
        kube.add(INSTALLATION, {"metadata": meta("default"),
                                "spec": {"kubernetesProvider": "AKS", "calicoNetwork": network}})
        kube.add("tigerastatuses.operator.tigera.io", {"metadata": {"name": "calico"}, "status": {"conditions": [
            {"type": "Available", "status": "True"}, {"type": "Degraded", "status": "False"}]}})
        peace: Obj = {"bpfKubeProxyIptablesCleanupEnabled": False, "bpfKubeProxyHealthzPort": 10258}
        notes = {} if article else {BPF_ANNOTATION: str(ebpf).lower()}
        kube.add(FELIX, {"metadata": meta("default", annotations=notes),
                         "spec": {"bpfEnabled": ebpf, **(peace if ebpf and not article else {})}})
        if ebpf:
            kube.add("configmaps", {"metadata": meta("kubernetes-services-endpoint", "tigera-operator"), "data": env})
    for objects in kube.objects.values():
        objects[:] = copy.deepcopy(objects)
    change(kube)
    return kube


def snapshot(azure: Obj | None = None, **options: Any) -> Snapshot:
    """What the doctor reads of such a cluster."""
    return take(cluster(**options), azure)  # type: ignore[arg-type]
