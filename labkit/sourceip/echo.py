"""The source-address demo: ask from outside, and see who the pod thinks is asking."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from labkit.errors import LabError
from labkit.kube import Kube
from labkit.kube.wait import rolled_out
from labkit.plan import Evidence, Log, Plan, Step
from labkit.sourceip import manifests, outside
from labkit.sourceip.trace_model import Trace
from labkit.sourceip.trace_run import trace
from labkit.targets import OutsideClient, Target

_PROBES = 4
"""How many connections show whether the nodes follow the service: each may meet another node."""


@dataclass(frozen=True)
class Answer:
    """What one connection from outside looked like at its other end.

    Args:
        client: who asked.
        client_address: the address that the client has, or "" where it is not known.
        frontend: the load balancer's address that was asked.
        seen: the address that the pod saw.
        pod: the pod that answered.
        pod_node: the node it runs on.
        seen_is: whose address it saw: "client", the name of a node, or "other".
        milliseconds: the whole exchange.
        seen_port: the port that the pod saw.
    """

    client: str
    client_address: str
    frontend: str
    seen: str
    pod: str
    pod_node: str
    seen_is: str
    milliseconds: float
    seen_port: int = 0

    @property
    def preserved(self) -> bool:
        """Whether the pod saw the client itself."""
        return self.seen_is == "client"

    ok = True


@dataclass(frozen=True)
class Refused:
    """A connection from outside that got no answer.

    Args:
        client: who asked.
        client_address: the address that the client has.
        frontend: the load balancer's address that was asked.
        error: what the client saw, such as silence.
        milliseconds: how long it waited.
    """

    client: str
    client_address: str
    frontend: str
    error: str
    milliseconds: float

    ok = False
    preserved = False


class SourceIp:
    """The echo service and its clients outside.

    Args:
        kube: the cluster.
        target: knows the clients.
    """

    def __init__(self, kube: Kube, target: Target) -> None:
        self._kube, self._target = kube, target

    @property
    def clients(self) -> tuple[str, ...]:
        """Who can ask from outside."""
        return tuple(c.name for c in self._target.outside_clients)

    def client(self, name: str) -> OutsideClient:
        """An outside client by name."""
        return self._target.client(name)

    def expose(self, policy: manifests.TrafficPolicy = "Cluster", replicas: int | None = None, *,
               capture: bool = False) -> Plan:
        """The plan that runs the echo pods and puts a load balancer in front of them.

        Args:
            policy: externalTrafficPolicy.
            replicas: None means one on each node.
            capture: whether the pods get a second container, from which `trace` captures in their own network.
        """
        count = replicas or max(1, len(self._kube.list("nodes")))
        objects = [manifests.namespace(), manifests.deployment(count, capture=capture)]
        service = manifests.service(policy)

        def apply_pods(log: Log) -> None:
            for obj in objects:
                self._kube.apply(obj)
                log(f"{obj['kind'].lower()}/{obj['metadata']['name']} applied")

        def pods() -> Evidence:
            found = self._kube.find("deployments.apps", manifests.NAME, manifests.NAMESPACE)
            if found is None:
                return Evidence(False, "there is no Deployment echo")
            seen = rolled_out(found)
            has = found["spec"].get("replicas")
            return seen if has == count else Evidence(False, f"{seen.text}; wanted: {count}")

        def apply_service(log: Log) -> None:
            self._kube.apply(service)
            log("service/echo applied")

        def remove_service(log: Log) -> None:
            self._kube.delete("services", manifests.NAME, manifests.NAMESPACE)
            log("service/echo deleted")

        def remove(log: Log) -> None:
            self._kube.delete("namespaces", manifests.NAMESPACE)
            log(f"namespace/{manifests.NAMESPACE} deleted")

        return Plan("expose-echo", "Expose a service that says who is asking", (
            Step(
                id="pods", title="Run the echo pods",
                why="Each answers /clientip with the address that its socket sees: no header, nothing that a "
                    "proxy could have written.",
                without="nobody answers.", command=_apply_command(objects), apply=apply_pods, verify=pods,
                revert=remove, revert_command=f"kubectl delete namespace {manifests.NAMESPACE}",
                reverted=self._is_gone,
            ),
            Step(
                id="service", title="Put a load balancer in front",
                why="A service of type LoadBalancer gets a public address. Azure's load balancer keeps the "
                    "client's address; what the node does next depends on its data plane and on "
                    f"externalTrafficPolicy, here {policy}.",
                without="the pods can be reached from inside the cluster only.",
                command=_apply_command([service]), apply=apply_service,
                verify=lambda: self._service_ready(policy),
                revert=remove_service,
                revert_command=f"kubectl delete service -n {manifests.NAMESPACE} {manifests.NAME}",
                timeout=300,
            ),
        ))

    def traffic_policy(self, policy: manifests.TrafficPolicy) -> Plan:
        """The plan that switches externalTrafficPolicy.

        Args:
            policy: "Cluster" (any node forwards to any pod) or "Local" (a node hands connections to its own
                pods only).
        """
        patch = {"spec": {"externalTrafficPolicy": policy}}
        other = "Local" if policy == "Cluster" else "Cluster"

        def switch(to: str, log: Log) -> None:
            self._kube.patch("services", manifests.NAME, {"spec": {"externalTrafficPolicy": to}},
                             manifests.NAMESPACE)
            log(f"service/echo: externalTrafficPolicy {to}")

        why = ("With Local a node hands a connection only to pods of its own and so need not hide the client; "
               "nodes without such a pod drop out of the load balancer." if policy == "Local" else
               "With Cluster every node takes connections for every pod, so load is spread evenly. With "
               "kube-proxy the price is the client's address: the node puts its own in its place, so that "
               "the reply comes back through it.")
        base = f"kubectl patch service -n {manifests.NAMESPACE} {manifests.NAME} -p "
        return Plan(f"traffic-policy-{policy.lower()}", f"Set externalTrafficPolicy to {policy}", (Step(
            id="policy", title=f"Set externalTrafficPolicy to {policy}", why=why,
            without="the service stays as it is.", command=f"{base}'{json.dumps(patch)}'",
            apply=lambda log: switch(policy, log), verify=lambda: self._in_effect(policy),
            revert=lambda log: switch(other, log),
            revert_command=f"{base}'{json.dumps({'spec': {'externalTrafficPolicy': other}})}'",
            hint="A NetworkPolicy from lesson 07 may keep the client out: `lab.run(lab.policies.remove())`.",
        ),))

    def remove(self) -> Plan:
        """The plan that removes the echo service, its pods and its policies."""
        def apply(log: Log) -> None:
            self._kube.delete("namespaces", manifests.NAMESPACE)
            log(f"namespace/{manifests.NAMESPACE} deleted")

        return Plan("remove-echo", "Remove the echo service", (Step(
            id="namespace", title="Delete the echo service's namespace",
            why="Everything of the demo is in it; the load balancer's address is given back.",
            without="the address goes on costing money.",
            command=f"kubectl delete namespace {manifests.NAMESPACE}", apply=apply, verify=self._is_gone),))

    def frontend(self) -> str:
        """The load balancer's address.

        Raises:
            LabError: the service is not exposed.
        """
        service = self._kube.find("services", manifests.NAME, manifests.NAMESPACE) or {}
        for ingress in (service.get("status", {}).get("loadBalancer") or {}).get("ingress") or []:
            if ingress.get("ip"):
                return str(ingress["ip"])
        raise LabError("The echo service has no address yet.", "it is not exposed, or the load balancer is not "
                       "made yet.", "`lab.run(lab.source_ip.expose())`.")

    def ask(self, client: str, times: int = 1, timeout: float = 3.0) -> list[Answer | Refused]:
        """Ask the echo service from outside, on a fresh connection each time.

        Args:
            client: who asks.
            times: how often.
            timeout: seconds to wait for an answer.

        Raises:
            LabError: `times` is not a whole number above zero, or the service is not exposed.
            TargetError: there is no such client.
        """
        if not isinstance(times, int) or times < 1:
            raise LabError(f"A client cannot ask {times!r} times.", "it must be a whole number above zero.",
                           "ask once or more.")
        who, frontend = self._target.client(client), self.frontend()
        places = _Places(self._kube)
        return [self._ask_once(who, frontend, places, timeout) for _ in range(times)]

    def trace(self, client: str, service: str = f"{manifests.NAMESPACE}/{manifests.NAME}", *,
              port: int | None = None, detour: bool = False, timeout: float = 3.0) -> Trace:
        """Send one connection and return every hop that it took: `labkit.sourceip.trace` on this cluster.

        Args:
            client: a client outside by name, a pod as "namespace/name", or "pod" for one made for the trace.
            service: "namespace/name".
            port: of the service; None means its first TCP port.
            detour: send further connections until one comes in by another node than the pod's.
            timeout: seconds to wait for an answer.

        Raises:
            LabError: there is no such service, pod or address, or the connection reached no pod.
            TargetError: there is no such client.
        """
        return trace(client, service, port=port, detour=detour, timeout=timeout, kube=self._kube,
                     target=self._target)

    @staticmethod
    def whose(answers: Sequence[Answer | Refused]) -> str:
        """Whose address the pod saw, in the words that a prediction uses.

        Args:
            answers: of `ask`.
        """
        if not all(answer.ok for answer in answers):
            return "some got no answer" if any(answer.ok for answer in answers) else "nobody got an answer"
        kept = sum(answer.preserved for answer in answers)
        return "the client" if kept == len(answers) else "a node" if not kept else "now the client, now a node"

    def _ask_once(self, who: OutsideClient, frontend: str, places: _Places, timeout: float) -> Answer | Refused:
        reply = outside.get(who, frontend, manifests.PORT, "/clientip", "/hostname", timeout=timeout)
        if not reply.ok:
            return Refused(who.name, who.address, frontend, reply.error, reply.seconds * 1000)
        host, _, port = reply.texts[0].strip().rpartition(":")
        seen = host.strip("[]").removeprefix("::ffff:")
        pod = reply.texts[1].strip() if len(reply.texts) > 1 else ""
        return Answer(who.name, who.address, frontend, seen, pod, places.node_of(pod), places.whose(seen, who),
                      reply.seconds * 1000, int(port) if port.isdecimal() else 0)

    def _service_ready(self, policy: str) -> Evidence:
        found = self._kube.find("services", manifests.NAME, manifests.NAMESPACE)
        if found is None:
            return Evidence(False, "there is no Service echo")
        has = found["spec"].get("externalTrafficPolicy", "Cluster")
        addresses = (found.get("status", {}).get("loadBalancer") or {}).get("ingress") or []
        if has != policy or not addresses:
            return Evidence(False, f"externalTrafficPolicy {has}; {'a' if addresses else 'no'} public address")
        return Evidence(True, f"externalTrafficPolicy {has}, public address {addresses[0].get('ip')}")

    def _in_effect(self, policy: manifests.TrafficPolicy) -> Evidence:
        """Whether the nodes follow the service's policy: they learn of it a second or so after the API."""
        ready = self._service_ready(policy)
        if not ready or not self.clients:
            return ready
        answers = self.ask(self.clients[0], times=_PROBES, timeout=1)
        silent = sum(not answer.ok for answer in answers)
        if silent:
            return Evidence(False, f"{ready.text}; {silent} of {_PROBES} connections from outside had no answer")
        if policy == "Local" and not all(answer.preserved for answer in answers):
            return Evidence(False, f"{ready.text}; a node still puts in its own address")
        return Evidence(True, f"{ready.text}; {_PROBES} connections from outside were answered")

    def _is_gone(self) -> Evidence:
        found = self._kube.find("namespaces", manifests.NAMESPACE)
        return Evidence(found is None, "the namespace is gone" if found is None else "the namespace still exists")


class _Places:
    """Which address is whose, as the cluster has it."""

    def __init__(self, kube: Kube) -> None:
        nodes, pods = kube.list("nodes"), kube.list("pods", manifests.NAMESPACE)
        self._nodes: dict[str, str] = {a["address"]: n["metadata"]["name"] for n in nodes
                       for a in n.get("status", {}).get("addresses") or [] if a["type"] == "InternalIP"}
        self._pods: dict[str, str] = {p["metadata"]["name"]: p["spec"].get("nodeName", "") for p in pods}

    def node_of(self, pod: str) -> str:
        return self._pods.get(pod, "")

    def whose(self, address: str, client: OutsideClient) -> str:
        """"client", a node's name, or "other"."""
        if address in self._nodes:
            return self._nodes[address]
        if address == client.address:
            return "client"
        # From Azure we do not know our own public address beforehand; one that is public is not the cluster's.
        if not client.address and not ipaddress.ip_address(address).is_private:
            return "client"
        return "other"


def _apply_command(objects: list[manifests.Obj]) -> str:
    documents = "---\n".join(yaml.safe_dump(obj, sort_keys=False) for obj in objects)
    return f"kubectl apply -f - <<'EOF'\n{documents}EOF"
