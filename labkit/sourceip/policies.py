"""Policies on outside clients: who may ask the echo service, by address."""

from __future__ import annotations

import ipaddress

import yaml

from labkit.errors import LabError, NotSupportedError
from labkit.kube import Kube
from labkit.plan import Evidence, Log, Plan, Step
from labkit.sourceip import manifests
from labkit.sourceip.echo import SourceIp

NAME = "only-from"
_RESOURCE = "networkpolicies.networking.k8s.io"


class Policies:
    """Network policies on the echo service.

    Args:
        kube: the cluster.
        source_ip: knows the clients.
    """

    def __init__(self, kube: Kube, source_ip: SourceIp) -> None:
        self._kube, self._source_ip = kube, source_ip

    def only_from(self, *clients: str, cidrs: tuple[str, ...] = ()) -> Plan:
        """The plan that lets some outside clients in and nobody else.

        Args:
            clients: names of outside clients.
            cidrs: further addresses, as "203.0.113.0/24".

        Raises:
            NotSupportedError: a client's address is not known, so no policy can name it.
            LabError: one of `cidrs` is not a range of addresses.
        """
        for cidr in cidrs:
            _see_range(cidr)
        manifest = manifests.only_from(NAME, (*(self._cidr(name) for name in clients), *cidrs))
        who = " and ".join((*clients, *cidrs)) or "nobody"

        def apply(log: Log) -> None:
            self._kube.apply(manifest)
            log(f"networkpolicy/{NAME} applied")

        def verify() -> Evidence:
            found = self._kube.find(_RESOURCE, NAME, manifests.NAMESPACE)
            if found is None:
                return Evidence(False, f"there is no NetworkPolicy {manifests.NAMESPACE}/{NAME}")
            blocks = [peer["ipBlock"]["cidr"] for rule in found["spec"].get("ingress") or []
                      for peer in rule.get("from") or [] if "ipBlock" in peer]
            wanted = [peer["ipBlock"]["cidr"] for rule in manifest["spec"]["ingress"] for peer in rule["from"]]
            return Evidence(blocks == wanted, f"it lets in {', '.join(blocks) or 'nobody'}")

        return Plan("only-from", f"Let in {who} only", (Step(
            id="policy", title=f"Write a policy that lets in {who} only",
            why="A policy decides by the source address that a packet carries when it comes to the pod. It can tell "
                "clients apart as long as that is theirs. It lets in the load balancer's probes, too "
                f"({manifests.PROBES}): without an answer to them Azure sends nobody to any node.",
            without="everybody who can reach the load balancer can ask.",
            command=f"kubectl apply -f - <<'EOF'\n{yaml.safe_dump(manifest, sort_keys=False)}EOF",
            apply=apply, verify=verify, revert=self._delete, reverted=self._is_gone,
            revert_command=f"kubectl delete networkpolicy -n {manifests.NAMESPACE} {NAME}",
            hint="The namespace is made by `lab.source_ip.expose()`.",
        ),))

    def remove(self) -> Plan:
        """The plan that takes the policy away."""
        return Plan("remove-policy", "Let everybody in again", (Step(
            id="policy", title="Delete the policy", why="Without a policy every client is let in.",
            without="the policy stays.", command=f"kubectl delete networkpolicy -n {manifests.NAMESPACE} {NAME}",
            apply=self._delete, verify=self._is_gone),))

    def _cidr(self, name: str) -> str:
        address = self._source_ip.client(name).address
        if not address:
            raise NotSupportedError(
                f"The address of {name} is not known.", "on this target it is found by asking the echo service.",
                f"ask first, then name it: `policies.only_from(cidrs=(seen + '/32',))` with "
                f"`seen = lab.source_ip.ask({name!r})[0].seen`.")
        return f"{address}/32"

    def _delete(self, log: Log) -> None:
        if self._kube.delete(_RESOURCE, NAME, manifests.NAMESPACE):
            log(f"networkpolicy/{NAME} deleted")

    def _is_gone(self) -> Evidence:
        found = self._kube.find(_RESOURCE, NAME, manifests.NAMESPACE)
        return Evidence(found is None, "there is no policy" if found is None else "the policy still exists")


def _see_range(cidr: str) -> None:
    try:
        ipaddress.ip_network(cidr)
    except ValueError as error:
        raise LabError(f"{cidr!r} is not a range of addresses.", f"{error}.",
                       'write it as "198.51.100.7/32" for one address, "203.0.113.0/24" for a network.') from error
