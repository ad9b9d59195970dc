"""Faults to find: plans that break something through the Kubernetes API, and mend it again.

Running a fault's plan breaks; reverting it, or `mend`, mends. Each shows as the finding of the doctor that
bears its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labkit.calico import ClusterFacts, DataPlane, choose_lane, effects, observe
from labkit.calico.facts import ENDPOINT_CONFIGMAP, INSTALLATIONS, OPERATOR_NAMESPACE, daemon_set
from labkit.errors import NotSupportedError
from labkit.kube import Kube, wait_for
from labkit.kube.wait import rolled_out
from labkit.plan import Evidence, Log, Plan, Step, revert_plan

NAMESPACE = "labkit-faults"
IMAGE = "registry.k8s.io/e2e-test-images/agnhost:2.47"
WRONG_IMAGE = "registry.k8s.io/e2e-test-images/agnhots:2.47"
_POLICIES = "networkpolicies.networking.k8s.io"


@dataclass(frozen=True)
class Fault:
    """Something to break.

    Args:
        name: also the id of the doctor's finding.
        symptom: what a learner is told.
        needs: the data plane that the cluster must have, or None for any with Calico or without.
        lane: the lane that it needs, or None.
    """

    name: str
    symptom: str
    needs: DataPlane | None = None
    lane: str | None = None


FAULTS = (
    Fault("wrong-image", "A new version of the web application never starts."),
    Fault("no-endpoints", "The web application runs, but its service does not answer."),
    Fault("policy-denies", "The web application's service has stopped answering; connections hang."),
    Fault("kube-proxy-gone", "Services that exist answer; a service that was made a minute ago never does.",
          needs="iptables"),
    Fault("two-address-methods", "Changes of Calico's Installation no longer take effect."),
    Fault("bpf-hand-set", "Somebody followed an old article, and now the operator is Degraded.",
          needs="iptables", lane="A"),
    Fault("endpoint-missing", "All works, but the next restart of calico-node may be its last.", needs="ebpf",
          lane="article"),
)


class Faults:
    """The faults of a cluster.

    Args:
        kube: the cluster.
    """

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    @property
    def names(self) -> tuple[str, ...]:
        """All faults, also those that need another data plane."""
        return tuple(fault.name for fault in FAULTS)

    def possible(self) -> tuple[Fault, ...]:
        """The faults that this cluster can have in the state that it is in."""
        facts = observe(self._kube)
        return tuple(fault for fault in FAULTS if not _obstacle(fault, facts))

    def inject(self, name: str) -> Plan:
        """The plan that breaks something.

        Args:
            name: of the fault.

        Raises:
            NotSupportedError: there is no such fault, or the cluster is not in the state for it.
        """
        fault = next((f for f in FAULTS if f.name == name), None)
        if fault is None:
            raise NotSupportedError(f"There is no fault {name!r}.", "", f"faults are {', '.join(self.names)}.")
        facts = observe(self._kube)
        if obstacle := _obstacle(fault, facts):
            raise NotSupportedError(f"The fault {name} is not possible here.", obstacle,
                                    f'`lab.ensure("{fault.needs or "cluster"}")` first.')
        return self._plan(fault, facts)

    def mend(self, name: str) -> Plan:
        """The plan that mends what `inject` of the same name has broken.

        Args:
            name: of the fault.
        """
        fault = next((f for f in FAULTS if f.name == name), None)
        if fault is None:
            raise NotSupportedError(f"There is no fault {name!r}.", "", f"faults are {', '.join(self.names)}.")
        return revert_plan(self._plan(fault, observe(self._kube)))

    def remove(self) -> None:
        """Delete the web application that the faults are shown on."""
        self._kube.delete("namespaces", NAMESPACE)

    def _plan(self, fault: Fault, facts: ClusterFacts) -> Plan:
        makers: dict[str, Callable[[Fault, ClusterFacts], Step]] = {
            "wrong-image": self._wrong_image, "no-endpoints": self._no_endpoints,
            "policy-denies": self._policy_denies, "kube-proxy-gone": self._kube_proxy_gone,
            "two-address-methods": self._two_methods, "bpf-hand-set": self._hand_set,
            "endpoint-missing": self._endpoint_missing,
        }
        return Plan(f"fault-{fault.name}", f"Break it: {fault.symptom}", (makers[fault.name](fault, facts),))

    # Faults of a web application

    def _wrong_image(self, fault: Fault, facts: ClusterFacts) -> Step:
        def to(image: str) -> Callable[[Log], None]:
            def apply(log: Log) -> None:
                self._web()
                self._kube.patch("deployments.apps", "web", {"spec": {"template": {"spec": {"containers": [
                    {"name": "web", "image": image}]}}}}, NAMESPACE, type="strategic")
                log(f"deployment/web: image {image}")
            return apply

        return self._step(fault, to(WRONG_IMAGE), to(IMAGE), lambda: self._web_image(WRONG_IMAGE), _set(WRONG_IMAGE),
                          _set(IMAGE), self._web_is_well)

    def _no_endpoints(self, fault: Fault, facts: ClusterFacts) -> Step:
        def to(app: str) -> Callable[[Log], None]:
            def apply(log: Log) -> None:
                self._web()
                self._kube.patch("services", "web", {"spec": {"selector": {"app": app}}}, NAMESPACE)
                log(f"service/web: selector app={app}")
            return apply

        def selects(app: str) -> Evidence:
            found = self._kube.find("services", "web", NAMESPACE)
            has = (found or {}).get("spec", {}).get("selector", {}).get("app")
            return Evidence(has == app, f"service/web selects app={has}")

        base = f"kubectl patch service -n {NAMESPACE} web -p "
        return self._step(fault, to("webb"), to("web"), lambda: selects("webb"),
                          base + "'{\"spec\":{\"selector\":{\"app\":\"webb\"}}}'",
                          base + "'{\"spec\":{\"selector\":{\"app\":\"web\"}}}'", lambda: selects("web"))

    def _policy_denies(self, fault: Fault, facts: ClusterFacts) -> Step:
        policy = {
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "hardening", "namespace": NAMESPACE},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": []},
        }

        def apply(log: Log) -> None:
            self._web()
            self._kube.apply(policy)
            log("networkpolicy/hardening applied")

        def mend(log: Log) -> None:
            self._kube.delete(_POLICIES, "hardening", NAMESPACE)
            log("networkpolicy/hardening deleted")

        def there() -> Evidence:
            found = self._kube.find(_POLICIES, "hardening", NAMESPACE)
            return Evidence(found is not None, "there is a policy that allows nothing" if found else "no policy")

        return self._step(fault, apply, mend, there, f"kubectl apply -f - <<'EOF'\n{json.dumps(policy)}\nEOF",
                          f"kubectl delete networkpolicy -n {NAMESPACE} hardening")

    # Faults of Calico

    def _kube_proxy_gone(self, fault: Fault, facts: ClusterFacts) -> Step:
        def to(value: str | None) -> Callable[[Log], None]:
            def apply(log: Log) -> None:
                self._kube.patch("daemonsets.apps", "kube-proxy", _selector(value), "kube-system", type="strategic")
                log(f"daemonset/kube-proxy: node selector non-calico={value}")
            return apply

        def gone() -> Evidence:
            found = daemon_set(self._kube.find("daemonsets.apps", "kube-proxy", "kube-system"))
            count = found.desired if found else 0
            return Evidence(count == 0, f"{count} kube-proxy pods should run")

        base = "kubectl patch ds -n kube-system kube-proxy -p "
        return self._step(fault, to("true"), to(None), gone, f"{base}'{json.dumps(_selector('true'))}'",
                          f"{base}'{json.dumps(_selector(None))}'", lambda: effects.kube_proxy_runs(self._kube))

    def _two_methods(self, fault: Fault, facts: ClusterFacts) -> Step:
        kept = "canReach" if "canReach" in facts.node_address else "firstFound"
        added: dict[str, Any] = {"firstFound": True} if kept == "canReach" else {"canReach": "8.8.8.8"}
        gone: dict[str, Any] = {name: None for name in added}

        def patch(methods: dict[str, Any]) -> Callable[[Log], None]:
            return lambda log: effects.patch_installation(self._kube, {"nodeAddressAutodetectionV4": methods}, log)

        def count(wanted: bool) -> Evidence:
            methods = effects.installation_network(self._kube).get("nodeAddressAutodetectionV4") or {}
            return Evidence((len(methods) > 1) is wanted, f"nodeAddressAutodetectionV4 is {json.dumps(methods)}")

        return self._step(fault, patch(added), patch(gone), lambda: count(True), _installation(added),
                          _installation(gone), lambda: count(False))

    def _hand_set(self, fault: Fault, facts: ClusterFacts) -> Step:
        def to(value: bool | None) -> Callable[[Log], None]:
            return lambda log: effects.patch_felix(self._kube, facts, {"bpfEnabled": value}, log)

        # Back to what the operator's note says, or to nothing where there is no note.
        before = None if facts.bpf_annotation is None else facts.bpf_annotation == "true"

        def degraded(wanted: bool) -> Evidence:
            condition = observe(self._kube).condition("Degraded")
            is_so = condition is not None and condition.status == "True"
            return Evidence(is_so is wanted, condition.message if condition and is_so else "not Degraded")

        base = "kubectl patch felixconfiguration default --type=merge -p "
        return self._step(fault, to(True), to(before), lambda: degraded(True),
                          base + "'{\"spec\":{\"bpfEnabled\":true}}'",
                          f"{base}'{json.dumps({'spec': {'bpfEnabled': before}})}'", lambda: degraded(False))

    def _endpoint_missing(self, fault: Fault, facts: ClusterFacts) -> Step:
        manifest = effects.endpoint_manifest(facts)

        def apply(log: Log) -> None:
            self._kube.delete("configmaps", ENDPOINT_CONFIGMAP, OPERATOR_NAMESPACE)
            log(f"configmap/{ENDPOINT_CONFIGMAP} deleted")

        def mend(log: Log) -> None:
            self._kube.apply(manifest)
            log(f"configmap/{ENDPOINT_CONFIGMAP} applied")
            if not effects.endpoint_in_use(facts, self._kube):
                effects.restart_operator(self._kube, log)
                wait_for("calico-node with the address", lambda: effects.endpoint_in_use(facts, self._kube))

        def absent() -> Evidence:
            found = self._kube.find("configmaps", ENDPOINT_CONFIGMAP, OPERATOR_NAMESPACE)
            return Evidence(found is None, "no ConfigMap" if found is None else "the ConfigMap is there")

        return self._step(fault, apply, mend, absent,
                          f"kubectl delete configmap -n {OPERATOR_NAMESPACE} {ENDPOINT_CONFIGMAP}",
                          f"kubectl apply -f - <<'EOF'\n{json.dumps(manifest)}\nEOF",
                          lambda: Evidence(False, "no ConfigMap") if absent()
                          else effects.endpoint_in_use(facts, self._kube))

    # The web application

    def _web(self) -> None:
        """Run the web application that the faults are shown on."""
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
        wait_for("the web application", self._web_is_well, timeout=180)

    def _web_is_well(self) -> Evidence:
        found = self._kube.find("deployments.apps", "web", NAMESPACE)
        if found is None:
            return Evidence(True, "there is no web application")
        if found["spec"]["template"]["spec"]["containers"][0]["image"] != IMAGE:
            return Evidence(False, "deployment/web has the wrong image")
        return rolled_out(found)

    def _web_image(self, image: str) -> Evidence:
        found = self._kube.find("deployments.apps", "web", NAMESPACE)
        has = found["spec"]["template"]["spec"]["containers"][0]["image"] if found else "none"
        return Evidence(has == image, f"deployment/web has the image {has}")

    def _step(self, fault: Fault, apply: Callable[[Log], None], mend: Callable[[Log], None],
              verify: Callable[[], Evidence], command: str, back: str,
              mended: Callable[[], Evidence] | None = None) -> Step:
        return Step(id=fault.name, title=fault.symptom, why="To find it is the exercise.", without="nothing is broken.",
                    command=command, apply=apply, verify=verify, revert=mend, revert_command=back, reverted=mended)


def _obstacle(fault: Fault, facts: ClusterFacts) -> str:
    """Why a fault is not possible in this cluster; empty where it is."""
    if fault.needs and facts.dataplane != fault.needs:
        return f"it needs the data plane {fault.needs}, and this cluster has {facts.dataplane}."
    if fault.name == "two-address-methods" and facts.dataplane == "vanilla":
        return "it needs Calico, and this cluster has none."
    if fault.lane and choose_lane(facts).id != fault.lane:
        return f"it needs a cluster of the {fault.lane} lane, and this one is not."
    return ""


def _selector(value: str | None) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"nodeSelector": {"non-calico": value}}}}}


def _installation(methods: dict[str, Any]) -> str:
    body = {"spec": {"calicoNetwork": {"nodeAddressAutodetectionV4": methods}}}
    return f"kubectl patch {INSTALLATIONS} default --type=merge -p '{json.dumps(body)}'"


def _set(image: str) -> str:
    return f"kubectl set image -n {NAMESPACE} deployment/web web={image}"
