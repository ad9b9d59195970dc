"""What a trace makes in a cluster is taken away again, also where the cluster refuses or something fails."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.errors import ForbiddenError, NotSupportedError
from labkit.kube.client import Output
from labkit.sourceip import manifests, trace_capture
from labkit.sourceip.trace_model import Place

NODES = (Place("node", "a", "a", "10.0.0.4"), Place("node", "b", "b", "10.0.0.5"))


class Cluster:
    """An API that takes objects, and may refuse pods."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses, self.objects, self.ran = refuses, {}, []

    def create(self, obj: dict[str, Any]) -> None:
        if obj["kind"] == self.refuses:
            raise ForbiddenError("pods is forbidden", 'violates PodSecurity "baseline:latest": host namespaces')
        self.objects[obj["kind"], obj["metadata"]["name"]] = obj

    def list(self, resource: str, namespace: str) -> list[dict[str, Any]]:
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        return [o | {"status": ready} for (kind, _), o in self.objects.items()
                if kind == "Pod" and o["metadata"]["namespace"] == namespace]

    def delete(self, resource: str, name: str) -> None:
        self.objects = {key: o for key, o in self.objects.items()
                        if name not in (o["metadata"]["name"], o["metadata"].get("namespace"))}

    def exec(self, pod: str, namespace: str, argv: list[str], **_: Any) -> Output:
        self.ran.append((pod, argv[-1]))
        return Output(0, "a line\n", "9 packets captured\n3 packets dropped by kernel\n")


def test_a_pod_on_each_node_for_the_time_of_the_block() -> None:
    cluster = Cluster()
    with trace_capture.pods_for(cluster, NODES, client_on="b") as namespace:
        assert namespace.startswith("labkit-trace-")
        on = {name: o["spec"]["nodeName"] for (kind, name), o in cluster.objects.items() if kind == "Pod"}
        assert on == {"node-a": "a", "node-b": "b", "client": "b"}
        assert not cluster.objects["Pod", "client"]["spec"]["hostNetwork"]
        assert cluster.objects["Pod", "node-a"]["spec"]["hostNetwork"]
    assert cluster.objects == {}


def test_whatever_fails_inside_takes_all_away() -> None:
    cluster = Cluster()
    with pytest.raises(ZeroDivisionError), trace_capture.pods_for(cluster, NODES):
        raise ZeroDivisionError
    assert cluster.objects == {}


def test_a_cluster_that_refuses_pods_on_its_nodes_is_told_in_words() -> None:
    cluster = Cluster(refuses="Pod")
    with pytest.raises(NotSupportedError) as caught, trace_capture.pods_for(cluster, NODES):
        pytest.fail("there are no pods")
    assert "refuses pods in the nodes' own network" in caught.value.what
    assert "host namespaces" in caught.value.why
    assert "pod security" in caught.value.fix
    assert cluster.objects == {}


def test_lost_packets_are_told_and_captures_end_once() -> None:
    cluster = Cluster()
    post = trace_capture.Post(NODES[0], "n", "node-a", None)
    with trace_capture.captures(cluster, [post], "tcp") as running:
        assert running.read(settle=0) == [(NODES[0], ("a line",))]
        assert running.notes == ["tcpdump in node a lost 3 packets."]
    assert [script.splitlines()[0].split()[0] for _, script in cluster.ran] == ["rm", "kill"]


def test_captures_end_where_the_block_fails() -> None:
    cluster = Cluster()
    post = trace_capture.Post(NODES[0], "n", "node-a", None)
    with pytest.raises(ZeroDivisionError), trace_capture.captures(cluster, [post], "tcp"):
        raise ZeroDivisionError
    assert cluster.ran[-1][1].startswith("kill -INT")


def test_the_echo_pods_have_a_container_to_capture_in_only_where_it_is_asked_for() -> None:
    def names(**given: bool) -> list[str]:
        pod = manifests.deployment(1, **given)["spec"]["template"]["spec"]
        return [container["name"] for container in pod["containers"]]

    assert names() == ["echo"]
    assert names(capture=True) == ["echo", trace_capture.CONTAINER]
