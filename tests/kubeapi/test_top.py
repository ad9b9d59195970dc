"""metrics.k8s.io: kubectl top and the Python client, through the API, from metrics-server, of what kubelets say."""

from __future__ import annotations

import threading

import kubernetes
import pytest

from labkit.local.kubeapi import Api
from labkit.local.programs.kubeclient import HttpClient
from labkit.local.programs.metrics_server import (
    GROUP,
    VERSION,
    Handler,
    Measurement,
    Meter,
    Metrics,
    Point,
    Usage,
    cpu_text,
    measure,
    memory_text,
    parse,
    read_kubelets,
)
from labkit.local.programs.netexec import QuietServer

from .backend import HostBackend
from .conftest import TOKEN, Served
from .test_http import call, kubectl

NAME = "v1beta1.metrics.k8s.io"
API_SERVICE = {"metadata": {"name": NAME}, "spec": {
    "group": GROUP, "version": VERSION, "service": {"name": "metrics-server", "namespace": "kube-system", "port": 443}}}
TEXT = """# HELP container_cpu_usage_seconds_total [ALPHA] Cumulative cpu time consumed by the container in core-seconds
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{{container="web",namespace="default",pod="busy"}} {busy:.6f} {at}
container_cpu_usage_seconds_total{{container="side",namespace="default",pod="busy"}} 1.000000 {at}
container_cpu_usage_seconds_total{{container="web",namespace="default",pod="young"}} {busy:.6f} {at}
container_memory_working_set_bytes{{container="web",namespace="default",pod="busy"}} 5242880 {at}
container_memory_working_set_bytes{{container="side",namespace="default",pod="busy"}} 20971520 {at}
container_start_time_seconds{{container="web",namespace="default",pod="busy"}} 900.500
container_start_time_seconds{{container="side",namespace="default",pod="busy"}} 900.500
container_start_time_seconds{{container="web",namespace="default",pod="young"}} 995.000
node_cpu_usage_seconds_total {node:.6f} {at}
node_memory_working_set_bytes 104857600 {at}
"""


class Kubelets(HostBackend):
    """Half a core is used in the pod, and a whole one on the node; one reading is two seconds after another."""

    readings = 0

    async def kubelet(self, node, path):
        assert path == "/metrics/resource"
        self.readings += 1
        text = TEXT.format(busy=self.readings, node=2 * self.readings, at=998_000 + 2000 * self.readings)
        return 200, text.encode(), b""

    async def dial(self, node, address, port, *, tls):
        return await super().dial("n1", "10.224.0.6", port, tls=tls)


def endpoints(port: int, *addresses: str) -> dict:
    who = {"addresses": [{"ip": ip} for ip in addresses]} if addresses else {"notReadyAddresses": [{"ip": "10.0.0.1"}]}
    return {"metadata": {"name": "metrics-server", "namespace": "kube-system"},
            "subsets": [{**who, "ports": [{"name": "https", "port": port}]}]}


def available(api: Api) -> tuple[str, str]:
    (condition,) = api.get("apiservices.apiregistration.k8s.io", NAME)["status"]["conditions"]
    return condition["status"], condition["reason"]


@pytest.fixture
def metrics(served: Served):
    create = served.api.create
    backend = served.api.node_backend = Kubelets()
    served.run(create, "nodes", {"metadata": {"name": "n1", "labels": {"pool": "a"}}})
    served.run(served.api.patch, "nodes", "n1", {"status": {
        "capacity": {"cpu": "4", "memory": "1000Mi"}, "allocatable": {"cpu": "4", "memory": "1000Mi"}}},
        subresource="status")
    for name in ("busy", "young"):
        served.run(create, "pods", {
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"nodeName": "n1", "containers": [{"name": "web", "image": "x"}, {"name": "side", "image": "x"}]}})
    served.run(create, "services", {"metadata": {"name": "metrics-server", "namespace": "kube-system"}, "spec": {
        "ports": [{"name": "https", "port": 443}]}})
    client = HttpClient(served.url, token=TOKEN, ca_file=served.ca)
    server_class = type("Joined", (QuietServer,), {"daemon_threads": False})    # they end before the test does
    with server_class(("127.0.0.1", 0), type("Behind", (Handler,), {
            "metrics": Metrics(client, Meter(lambda: read_kubelets(client), sleep=lambda _: None))})) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            served.run(create, "endpoints", endpoints(server.server_port, "10.224.0.6"))
            served.run(create, "apiservices.apiregistration.k8s.io", API_SERVICE)
            yield served, backend
        finally:
            server.shutdown()
            thread.join()


def rows(printed: str) -> list[list[str]]:
    return [line.split() for line in printed.splitlines()]


def test_kubectl_and_the_python_client_see_what_was_measured(metrics):
    served, backend = metrics
    assert rows(kubectl(served, "top", "nodes").stdout)[1:] == [["n1", "1000m", "25%", "100Mi", "10%"]]
    assert rows(kubectl(served, "top", "pods").stdout)[1:] == [["busy", "500m", "25Mi"]]
    assert rows(kubectl(served, "top", "pods", "-A", "--containers", "--sort-by=memory").stdout)[1:] == [
        ["default", "busy", "side", "0m", "20Mi"], ["default", "busy", "web", "500m", "5Mi"]]
    assert rows(kubectl(served, "top", "pods", "-l", "app=busy", "--no-headers").stdout) == [["busy", "500m", "25Mi"]]
    assert "metrics not available yet" in kubectl(served, "top", "pods", "-l", "app=young").stderr
    assert '(NotFound): podmetrics.metrics.k8s.io "default/young" not found' in kubectl(
        served, "top", "pod", "young").stderr
    base = f"/apis/{GROUP}/{VERSION}"
    assert call(served, f"{base}/namespaces/default/pods/nobody")[1]["message"] == 'pods "nobody" not found'
    assert call(served, f"{base}/pods?watch=1")[0] == 405
    assert call(served, f"/openapi/v3{base}")[1]["paths"] == {}, "not what other kinds may be asked"
    assert rows(kubectl(served, "get", "podmetrics").stdout) == [
        ["NAME", "CPU", "MEMORY", "WINDOW"], ["busy", "500m", "25Mi", "2s"]]
    assert [(r["name"], r["namespaced"], r["kind"], r["verbs"]) for r in call(served, base)[1]["resources"]] == [
        ("nodes", False, "NodeMetrics", ["get", "list"]), ("pods", True, "PodMetrics", ["get", "list"])]
    configuration = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(str(served.kubeconfig), client_configuration=configuration)
    with kubernetes.client.ApiClient(configuration) as client:
        custom = kubernetes.client.CustomObjectsApi(client)
        (node,) = custom.list_cluster_custom_object(GROUP, VERSION, "nodes", label_selector="pool=a")["items"]
        assert (node["usage"], node["window"], node["timestamp"], node["metadata"]["labels"]) == (
            {"cpu": "1", "memory": "100Mi"}, "2s", "1970-01-01T00:16:42Z", {"pool": "a"})
        assert custom.list_cluster_custom_object(GROUP, VERSION, "nodes", label_selector="pool=b")["items"] == []
        found = custom.get_namespaced_custom_object(GROUP, VERSION, "default", "pods", "busy")
        assert (found["kind"], [c["name"] for c in found["containers"]]) == ("PodMetrics", ["web", "side"])
    assert backend.readings == 2, "everybody was answered from one measurement"


def test_an_api_service_says_whether_somebody_answers(metrics):
    served, _ = metrics
    api = served.api
    assert available(api) == ("True", "Passed")
    assert rows(kubectl(served, "get", "apiservices").stdout)[1][:3] == [NAME, "kube-system/metrics-server", "True"]
    served.run(api.update, "endpoints", endpoints(1))
    assert "currently unable to handle the request (get nodes.metrics.k8s.io)" in kubectl(served, "top", "nodes").stderr
    assert available(api) == ("False", "MissingEndpoints")
    assert rows(kubectl(served, "get", "apiservices").stdout)[1][2:4] == ["False", "(MissingEndpoints)"]
    served.run(api.update, "endpoints", endpoints(1, "10.224.0.6"))     # nobody listens there
    assert "currently unable to handle the request" in kubectl(served, "top", "nodes").stderr
    served.run(api.delete, "apiservices.apiregistration.k8s.io", NAME)
    assert "Metrics API not available" in kubectl(served, "top", "nodes").stderr


def test_a_container_counts_once_it_has_run_for_a_while():
    key, at = ("default", "p", "c"), 100.0

    def measured(**now):
        first = {key: Point(at, cpu=5)}
        return dict(measure(first, {key: Point(at + 2, **{"cpu": 6, "memory": 7, "started": 90, **now})}).pods)

    assert measured() == {("default", "p"): {"c": Usage(102, 2, 0.5, 7)}}
    assert measured(started=92) == {("default", "p"): {"c": Usage(102, 2, 0.5, 7)}}
    assert measured(started=92.1) == measured(cpu=4) == {}, "it is young; it has started anew"
    last = {key: Point(at + 2, 6, 7, 90), ("default", "p", "new"): Point(at + 2, 6, 7, 90), ("n",): Point(at + 2, 9)}
    assert measure({key: Point(at, 5), ("n",): Point(at, 7)}, last) == Measurement({"n": Usage(102, 2, 1.0, 0)}, {}), \
        "not a pod with some of its containers"


def test_a_meter_reads_twice_and_then_rests():
    clock, slept, read = [0.0], [], []

    def reading() -> dict:
        read.append(clock[0])
        return parse("n", TEXT.format(busy=len(read), node=3 * len(read), at=100_000 + 2000 * len(read)))

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    meter = Meter(reading, lambda: clock[0], sleep)
    assert meter.latest().nodes == {"n": Usage(104, 2, 1.5, 104857600)}
    clock[0] = 16.9
    assert meter.latest().nodes["n"].at == 104
    clock[0] = 17.0
    assert (meter.latest().nodes["n"].at, read, slept) == (108, [0, 2, 17, 19], [2, 2])


@pytest.mark.parametrize(("cores", "size", "texts"), [
    (2, 3 << 30, ("2", "3Gi")), (0.25, 1 << 20, ("250m", "1Mi")), (0.000007, 1536, ("7u", "1536")),
    (0.123456789, 5 << 10, ("123456789n", "5Ki")), (0, 0, ("0", "0"))])
def test_quantities_are_in_their_shortest_form(cores, size, texts):
    assert (cpu_text(cores), memory_text(size)) == texts
