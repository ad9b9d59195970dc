"""How each fault is made and mended: mostly patches, there and back, whose twins work when pasted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labkit.calico import ClusterFacts, effects, observe
from labkit.calico.facts import ENDPOINT_CONFIGMAP, INSTALLATIONS, OPERATOR_NAMESPACE
from labkit.calico.lanes import healthz_port
from labkit.kube import Kube, Obj, wait_for
from labkit.kube.client import PatchType
from labkit.kube.wait import rolled_out
from labkit.plan import Evidence, Log, Step

NAMESPACE = "labkit-faults"
IMAGE = "registry.k8s.io/e2e-test-images/agnhost:2.47"
WRONG_IMAGE = "registry.k8s.io/e2e-test-images/agnhots:2.47"
OUTSIDE = "203.0.113.0/24"
"""A range of outside clients: what a service is restricted to."""
_POLICIES = "networkpolicies.networking.k8s.io"

Look = Callable[[], Evidence]
Made = Callable[[str, str], Step]
"""Makes the step of a fault's name and its symptom."""


class WebApplication:
    """The web application that faults are shown on.

    Args:
        kube: the cluster.
    """

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def run(self) -> None:
        """Run it, and wait until it is there."""
        if self._kube.find("services", "web", NAMESPACE):
            return
        labels = {"app": "web"}
        pod = {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "web", "image": IMAGE, "args": ["netexec", "--http-port=8080"]}]}
        for obj in (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": NAMESPACE},
             "spec": {"replicas": 2, "selector": {"matchLabels": labels},
                      "template": {"metadata": {"labels": labels}, "spec": pod}}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": NAMESPACE},
             "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}},
        ):
            self._kube.apply(obj)
        wait_for("the web application", self.well, timeout=180)

    def well(self) -> Evidence:
        """Whether it runs as it should; one that is not there does not run wrong."""
        found = self._kube.find("deployments.apps", "web", NAMESPACE)
        if found is None:
            return Evidence(True, "there is no web application")
        if found["spec"]["template"]["spec"]["containers"][0]["image"] != IMAGE:
            return Evidence(False, "deployment/web has the wrong image")
        return rolled_out(found)


@dataclass(frozen=True)
class Patch:
    """A patch of one object, there and back.

    Args:
        resource: as kubectl names it.
        name: the object's.
        namespace: its namespace, or None.
        forth: what breaks.
        back: what mends.
        type: "merge" or "strategic".
    """

    resource: str
    name: str
    namespace: str | None
    forth: Obj
    back: Obj
    type: PatchType = "merge"

    def command(self, body: Obj) -> str:
        """The same by kubectl."""
        where = f" -n {self.namespace}" if self.namespace else ""
        return f"kubectl patch {self.resource} {self.name}{where} --type={self.type} -p '{json.dumps(body)}'"


def patched(kube: Kube, patches: Sequence[Patch], *, before: Callable[[], object] = lambda: None,
            broken: Look | None = None, mended: Look | None = None) -> Made:
    """A fault that is made of patches.

    Args:
        kube: the cluster.
        patches: in the order in which they break.
        before: called before the first, such as what must run.
        broken: looks whether it is broken, beside what the patches say.
        mended: likewise, whether it is mended.
    """
    def apply(body: Callable[[Patch], Obj]) -> Callable[[Log], None]:
        def run(log: Log) -> None:
            before()
            for patch in patches:
                kube.patch(patch.resource, patch.name, body(patch), patch.namespace, type=patch.type)
                log(f"{patch.resource}/{patch.name}: {json.dumps(body(patch))}")
        return run

    def look(body: Callable[[Patch], Obj], also: Look | None) -> Look:
        def verify() -> Evidence:
            for patch in patches:
                found = kube.find(patch.resource, patch.name, patch.namespace)
                if found is None or not holds(body(patch), found):
                    return Evidence(False, f"{patch.resource}/{patch.name} is not so: {json.dumps(body(patch))}")
            return also() if also else Evidence(True, f"{patches[-1].resource}/{patches[-1].name} is so: "
                                                      f"{json.dumps(body(patches[-1]))}")
        return verify

    def forth(patch: Patch) -> Obj:
        return patch.forth

    def back(patch: Patch) -> Obj:
        return patch.back

    return _step(apply(forth), apply(back), look(forth, broken), look(back, mended),
                 "\n".join(p.command(p.forth) for p in patches), "\n".join(p.command(p.back) for p in patches))


def holds(said: Any, current: Any) -> bool:
    """Whether an object is as a patch says; a None says that a field is absent, a list that its items are there.

    Args:
        said: the patch.
        current: the object.
    """
    if isinstance(said, Mapping):
        return all(holds(value, (current or {}).get(key)) for key, value in said.items())
    if isinstance(said, list):
        return all(any(holds(item, have) for have in current or ()) for item in said)
    return bool(said == current)


def _step(apply: Callable[[Log], None], mend: Callable[[Log], None], verify: Look, mended: Look | None,
          command: str, back: str) -> Made:
    def make(name: str, symptom: str) -> Step:
        return Step(id=name, title=symptom, why="To find it is the exercise.", without="nothing is broken.",
                    command=command, apply=apply, verify=verify, revert=mend, revert_command=back, reverted=mended)

    return make


# Faults of a web application


def wrong_image(kube: Kube, web: WebApplication, facts: ClusterFacts) -> Made:
    """An image that nobody has."""
    def image(name: str) -> Obj:
        return {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": name}]}}}}

    return patched(kube, [Patch("deployments.apps", "web", NAMESPACE, image(WRONG_IMAGE), image(IMAGE), "strategic")],
                   before=web.run, mended=web.well)


def no_endpoints(kube: Kube, web: WebApplication, facts: ClusterFacts) -> Made:
    """A selector that fits no pod."""
    wrong, right = ({"spec": {"selector": {"app": app}}} for app in ("webb", "web"))
    return patched(kube, [Patch("services", "web", NAMESPACE, wrong, right)], before=web.run)


def policy_denies(kube: Kube, web: WebApplication, facts: ClusterFacts) -> Made:
    """A policy that lets nobody in."""
    policy = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "hardening", "namespace": NAMESPACE},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": []},
    }

    def apply(log: Log) -> None:
        web.run()
        kube.apply(policy)
        log("networkpolicy/hardening applied")

    def mend(log: Log) -> None:
        kube.delete(_POLICIES, "hardening", NAMESPACE)
        log("networkpolicy/hardening deleted")

    def there() -> Evidence:
        found = kube.find(_POLICIES, "hardening", NAMESPACE)
        return Evidence(found is not None, "there is a policy that allows nothing" if found else "no policy")

    return _step(apply, mend, there, None, f"kubectl apply -f - <<'EOF'\n{json.dumps(policy)}\nEOF",
                 f"kubectl delete networkpolicy -n {NAMESPACE} hardening")


def source_ranges(kube: Kube, web: WebApplication, facts: ClusterFacts) -> Made:
    """A load balancer for outside clients only: in eBPF mode that holds for pods, too."""
    return patched(kube, [Patch("services", "web", NAMESPACE,
                                {"spec": {"type": "LoadBalancer", "loadBalancerSourceRanges": [OUTSIDE]}},
                                {"spec": {"loadBalancerSourceRanges": None}})], before=web.run)


def local_policy(kube: Kube, web: WebApplication, facts: ClusterFacts) -> Made:
    """A single pod, and a policy that never leaves the node."""
    one, two = ({"spec": {"replicas": count}} for count in (1, 2))
    return patched(kube, [
        Patch("deployments.apps", "web", NAMESPACE, one, two),
        Patch("services", "web", NAMESPACE, {"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}},
              {"spec": {"externalTrafficPolicy": "Cluster"}}),
    ], before=web.run, broken=web.well, mended=web.well)


# Faults of Calico and kube-proxy


def kube_proxy_away(kube: Kube, web: WebApplication, facts: ClusterFacts) -> Made:
    """kube-proxy taken off the nodes."""
    def selector(value: str | None) -> Obj:
        return {"spec": {"template": {"spec": {"nodeSelector": {"non-calico": value}}}}}

    return patched(kube, [Patch("daemonsets.apps", "kube-proxy", "kube-system", selector("true"), selector(None),
                                "strategic")], mended=lambda: effects.kube_proxy_runs(kube))


def two_methods(kube: Kube, web: WebApplication, facts: ClusterFacts) -> Made:
    """A second way to find a node's address."""
    both: dict[str, object] = {"firstFound": True, "canReach": "8.8.8.8"}
    # What is there stays; where there was nothing, or both are there by now, canReach does, as in the article.
    other = "canReach" if set(facts.node_address) == {"firstFound"} else "firstFound"
    added = {name: value for name, value in both.items() if name not in facts.node_address or name == other}
    gone = {other: None}

    def methods(changed: Obj) -> Obj:
        return {"spec": {"calicoNetwork": {"nodeAddressAutodetectionV4": changed}}}

    return patched(kube, [Patch(INSTALLATIONS, "default", None, methods(added), methods(gone))],
                   broken=_degraded(kube, True), mended=_degraded(kube, False))


def hand_set(kube: Kube, web: WebApplication, facts: ClusterFacts) -> Made:
    """A hand that sets bpfEnabled, where the operator owns it."""
    # Back to what the operator's note says, or to nothing where there is no note.
    before = None if facts.bpf_annotation is None else facts.bpf_annotation == "true"
    return patched(kube, [_felix(facts, {"bpfEnabled": True}, {"bpfEnabled": before})], broken=_degraded(kube, True),
                   mended=_degraded(kube, False))


def _degraded(kube: Kube, wanted: bool) -> Look:
    """Looks whether the operator says Degraded, or no longer does: it says so a moment after the patch."""
    def look() -> Evidence:
        condition = observe(kube).condition("Degraded")
        is_so = condition is not None and condition.status == "True"
        return Evidence(is_so is wanted, condition.message if condition and is_so else "not Degraded")
    return look


def fight(kube: Kube, web: WebApplication, facts: ClusterFacts) -> Made:
    """Felix removes the rules of a kube-proxy that stays."""
    return patched(kube, [_felix(facts, {"bpfKubeProxyIptablesCleanupEnabled": True},
                                 {"bpfKubeProxyIptablesCleanupEnabled": False})])


def health_port(kube: Kube, web: WebApplication, facts: ClusterFacts) -> Made:
    """Felix opens the port that kube-proxy holds."""
    return patched(kube, [_felix(facts, {"bpfKubeProxyHealthzPort": 10256},
                                 {"bpfKubeProxyHealthzPort": healthz_port(facts)})])


def endpoint_wrong(kube: Kube, web: WebApplication, facts: ClusterFacts) -> Made:
    """The ConfigMap names another cluster's API server."""
    other = f"other-{facts.api_host}"

    def unready() -> Evidence:
        found = observe(kube).calico_node
        return Evidence(found is not None and found.ready < found.desired,
                        f"{found.ready} of {found.desired} calico-nodes are ready" if found else "no calico-node")

    return patched(kube, [Patch("configmaps", ENDPOINT_CONFIGMAP, OPERATOR_NAMESPACE,
                                {"data": {"KUBERNETES_SERVICE_HOST": other}},
                                {"data": {"KUBERNETES_SERVICE_HOST": facts.api_host}})],
                   broken=unready, mended=lambda: effects.endpoint_in_use(facts, kube))


def endpoint_missing(kube: Kube, web: WebApplication, facts: ClusterFacts) -> Made:
    """The ConfigMap is gone; calico-node works on until it restarts."""
    manifest = effects.endpoint_manifest(facts)

    def apply(log: Log) -> None:
        kube.delete("configmaps", ENDPOINT_CONFIGMAP, OPERATOR_NAMESPACE)
        log(f"configmap/{ENDPOINT_CONFIGMAP} deleted")

    def mend(log: Log) -> None:
        kube.apply(manifest)
        log(f"configmap/{ENDPOINT_CONFIGMAP} applied")
        if not effects.endpoint_in_use(facts, kube):
            effects.restart_operator(kube, log)
            wait_for("calico-node with the address", lambda: effects.endpoint_in_use(facts, kube))

    def absent() -> Evidence:
        found = kube.find("configmaps", ENDPOINT_CONFIGMAP, OPERATOR_NAMESPACE)
        return Evidence(found is None, "no ConfigMap" if found is None else "the ConfigMap is there")

    def mended() -> Evidence:
        return Evidence(False, "no ConfigMap") if absent() else effects.endpoint_in_use(facts, kube)

    return _step(apply, mend, absent, mended,
                 f"kubectl delete configmap -n {OPERATOR_NAMESPACE} {ENDPOINT_CONFIGMAP}",
                 f"kubectl apply -f - <<'EOF'\n{json.dumps(manifest)}\nEOF")


def _felix(facts: ClusterFacts, forth: Obj, back: Obj) -> Patch:
    return Patch(facts.felix_resource, "default", None, {"spec": forth}, {"spec": back})
