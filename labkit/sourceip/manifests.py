"""The echo service: pods that say which address they see, one on each node, behind a load balancer."""

from __future__ import annotations

from typing import Any, Literal

from labkit.bench.workload import TOOLS_IMAGE

Obj = dict[str, Any]
TrafficPolicy = Literal["Cluster", "Local"]

NAMESPACE = "labkit-echo"
NAME = "echo"
PORT = 80
IMAGE = "registry.k8s.io/e2e-test-images/agnhost:2.47"
SELECTOR = {"app": NAME}
PROBES = "168.63.129.16/32"
"""Where Azure's load balancer asks nodes from whether they are well:
https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16"""


def namespace() -> Obj:
    """The namespace that the echo service is in."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def deployment(replicas: int, *, capture: bool = False) -> Obj:
    """Pods of agnhost's `netexec`, which answers /clientip with the address it sees.

    Args:
        replicas: how many; spread over nodes.
        capture: with a second container from which a trace captures in the pod's network: agnhost has no tcpdump.
    """
    beside = [{"name": "capture", "image": TOOLS_IMAGE, "command": ["sleep", "infinity"]}] if capture else []
    return {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": SELECTOR},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": SELECTOR},
            "template": {
                "metadata": {"labels": SELECTOR},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": SELECTOR},
                    }],
                    "containers": [{
                        "name": NAME, "image": IMAGE, "args": ["netexec", "--http-port=8080"],
                        "ports": [{"containerPort": 8080}],
                        "readinessProbe": {"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 2},
                    }, *beside],
                },
            },
        },
    }


def service(policy: TrafficPolicy = "Cluster") -> Obj:
    """The load balancer in front of them.

    Args:
        policy: externalTrafficPolicy.
    """
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": SELECTOR},
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": policy, "selector": SELECTOR,
            "ports": [{"name": "http", "port": PORT, "targetPort": 8080}],
        },
    }


def only_from(name: str, cidrs: tuple[str, ...]) -> Obj:
    """A NetworkPolicy: the echo pods take connections from these addresses and from nobody else.

    The load balancer's probes are let in, too: with policy Cluster they ask a node's node port, so a pod, from an
    address that is no node's, and a load balancer whose probes nobody answers sends nothing to anybody.

    Args:
        name: the policy's name.
        cidrs: whom to let in.
    """
    peers = [{"ipBlock": {"cidr": cidr}} for cidr in (*cidrs, PROBES)]
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "podSelector": {"matchLabels": SELECTOR}, "policyTypes": ["Ingress"],
            "ingress": [{"from": peers}],
        },
    }
