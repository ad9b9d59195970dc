"""The wire: raw requests, the Python client, kubectl."""

from __future__ import annotations

import base64
import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import kubernetes
import pytest
import websocket

from .backend import HostBackend
from .conftest import TOKEN, Served
from .test_verbs import deployment, pod, service


def call(served: Served, path: str, method: str = "GET", body: object = None, token: str = TOKEN,
         **headers: str) -> tuple[int, dict]:
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(served.url + path, data, method=method, headers={
        "Authorization": f"Bearer {token}", "Content-Type": "application/json",
        **{k.replace("_", "-"): v for k, v in headers.items()}})
    context = ssl.create_default_context(cafile=str(served.ca))
    try:
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def kubectl(served: Served, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    home = served.kubeconfig.parent
    return subprocess.run(["kubectl", *args], input=stdin, capture_output=True, text=True, timeout=120, check=False,
                          env={**os.environ, "KUBECONFIG": str(served.kubeconfig), "HOME": str(home)})


@pytest.fixture
def core(served: Served):
    configuration = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(str(served.kubeconfig), client_configuration=configuration)
    with kubernetes.client.ApiClient(configuration) as client:
        yield kubernetes.client.CoreV1Api(client)


def run_a_pod(served: Served) -> None:
    served.api.node_backend = HostBackend()
    served.run(served.api.create, "pods", pod(nodeName="n1"), "default")
    served.run(served.api.patch, "pods", "p", {"status": {"phase": "Running"}}, "default", subresource="status")


def test_refusals_on_the_wire(served: Served) -> None:
    pods, labelled = "/api/v1/namespaces/default/pods", {"metadata": {"labels": {"a": 1}}}
    cases = [
        (call(served, pods, token="wrong"), 401, "Unauthorized", "Unauthorized"),
        (call(served, pods, "POST", b"{"), 400, "BadRequest", "json parse error"),
        (call(served, pods, "POST", b"[]"), 400, "BadRequest", "cannot unmarshal array"),
        (call(served, pods, "POST", {"kind": "Service"}), 400, "BadRequest", "cannot be handled as a Pod"),
        (call(served, pods, "POST", {"apiVersion": "v2"}), 400, "BadRequest",
         "does not match the expected API version"),
        (call(served, pods, "POST", b"x", Content_Type="text/plain"), 415, "UnsupportedMediaType", "application/json"),
        (call(served, pods + "/p", "PATCH", {}), 415, "UnsupportedMediaType", "merge-patch"),
        (call(served, pods + "/p", "POST", {}), 405, "MethodNotAllowed", "does not allow this method"),
        (call(served, "/apis/nope/v1/things"), 404, "NotFound", "could not find the requested resource"),
        (call(served, pods + "?limit=x"), 400, "BadRequest", "invalid syntax"),
        (call(served, pods + "?continue=x"), 400, "BadRequest", "continue key is not valid"),
        (call(served, pods + "?dryRun=yes", "POST", pod()), 422, "Invalid", "dryRun"),
        (call(served, pods + "/none/log"), 404, "NotFound", 'pods "none" not found'),
        (call(served, "/api/v1/namespaces/default", "PATCH", labelled, Content_Type="application/merge-patch+json"),
         422, "Invalid", "cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"),
        (call(served, "/api/v1/namespaces/default", "PATCH", labelled,
              Content_Type="application/strategic-merge-patch+json"), 422, "Invalid",
         'patch: Invalid value: "map[metadata:map[labels:map[a:1]]]": cannot convert int64 to string'),
    ]
    for (code, status), wanted, reason, text in cases:
        assert (code, status["reason"], status["kind"]) == (wanted, reason, "Status")
        assert text in status["message"]


def test_dry_run_stores_nothing(served: Served) -> None:
    url = "/api/v1/namespaces/default/services"
    code, made = call(served, url + "?dryRun=All", "POST", service(type="NodePort"))
    assert code == 201
    assert made["spec"]["clusterIP"]
    assert call(served, url + "/web")[0] == 404
    served.run(served.api.create, "services", service(), "default")
    assert call(served, url + "/web?dryRun=All", "DELETE")[0] == 200
    assert call(served, url + "/web")[0] == 200


def test_a_list_in_chunks_is_the_whole_list(served: Served) -> None:
    for i in range(7):
        served.run(served.api.create, "configmaps", {"metadata": {"name": f"c{i}"}}, ("default", "kube-system")[i % 2])
    names, token = [], ""
    while True:
        _, page = call(served, f"/api/v1/configmaps?limit=3&continue={token}")
        assert len(page["items"]) <= 3
        names += [i["metadata"]["name"] for i in page["items"]]
        if not (token := page["metadata"].get("continue", "")):
            break
        assert page["metadata"]["remainingItemCount"] == 7 - len(names)
    assert names == ["c0", "c2", "c4", "c6", "c1", "c3", "c5"]


def test_a_watch_resumes_and_an_old_version_is_gone(served: Served, core) -> None:
    made = core.create_namespaced_config_map("default", {"metadata": {"name": "a"}})
    core.patch_namespaced_config_map("a", "default", {"data": {"k": "v"}})
    core.delete_namespaced_config_map("a", "default")
    events = [(e["type"], e["object"].metadata.name) for e in kubernetes.watch.Watch().stream(
        core.list_namespaced_config_map, "default", resource_version=made.metadata.resource_version,
        timeout_seconds=1)]
    assert events == [("MODIFIED", "a"), ("DELETED", "a")]

    def churn() -> None:
        for i in range(2100):
            served.api.patch("configmaps", "b", {"data": {"n": str(i)}}, "default")

    served.run(served.api.create, "configmaps", {"metadata": {"name": "b"}}, "default")
    served.run(churn)
    with pytest.raises(kubernetes.client.ApiException) as caught:
        for _ in kubernetes.watch.Watch().stream(core.list_namespaced_config_map, "default", timeout_seconds=1,
                                                 resource_version=made.metadata.resource_version):
            pass
    assert caught.value.status == 410


def test_exec_and_port_forward_by_the_python_client(served: Served) -> None:
    """In a process of its own: the client leaves its sockets to the collector, in whose test ever."""
    run_a_pod(served)
    done = subprocess.run([sys.executable, "-c", PYTHON_CLIENT, str(served.kubeconfig)], capture_output=True, text=True,
                          timeout=120, check=False)
    assert json.loads(done.stdout or "null") == {
        "both": ["err", "out"], "line": "abc", "code": 7, "forwarded": "PING"}, done.stderr


PYTHON_CLIENT = """
import json, sys
import kubernetes
from kubernetes.stream import portforward, stream

kubernetes.config.load_kube_config(sys.argv[1])
core, seen = kubernetes.client.CoreV1Api(), {}
out = stream(core.connect_get_namespaced_pod_exec, "p", "default", command=["sh", "-c", "echo out; echo err >&2"],
             stderr=True, stdin=False, stdout=True, tty=False)
seen["both"] = sorted(out.split())
session = stream(core.connect_get_namespaced_pod_exec, "p", "default", command=["sh", "-c", "cat; exit 7"],
                 stderr=True, stdin=True, stdout=True, tty=False, _preload_content=False)
session.write_stdin("abc\\n")
seen["line"] = session.readline_stdout(timeout=60)
session.close_channel(0)
session.run_forever(timeout=60)
seen["code"] = session.returncode
forward = portforward(core.connect_get_namespaced_pod_portforward, "p", "default", ports="80")
connection = forward.socket(80)
connection.setblocking(True)
connection.sendall(b"ping")
seen["forwarded"] = connection.recv(10).decode()
connection.close()
print(json.dumps(seen))
"""


def test_port_forward_knows_no_version_5(served: Served) -> None:
    run_a_pod(served)
    talk = websocket.create_connection(
        f"{served.url.replace('https', 'wss')}/api/v1/namespaces/default/pods/p/portforward?ports=80", timeout=60,
        subprotocols=["v5.channel.k8s.io", "v4.channel.k8s.io"], header=[f"Authorization: Bearer {TOKEN}"],
        sslopt={"ca_certs": str(served.ca)})
    assert talk.getsubprotocol() == "v4.channel.k8s.io"
    talk.shutdown()


@pytest.mark.parametrize("protocol", [
    "v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "base64.channel.k8s.io"])
def test_exec_speaks_every_channel_protocol(served: Served, protocol: str) -> None:
    run_a_pod(served)
    url = served.url.replace("https", "wss") + "/api/v1/namespaces/default/pods/p/exec"
    talk = websocket.create_connection(
        f"{url}?stdin=true&stdout=true&stderr=true&command=sh&command=-c&command=head+-n1%3B+exit+3",
        subprotocols=[protocol], timeout=60,
        header=[f"Authorization: Bearer {TOKEN}"], sslopt={"ca_certs": str(served.ca)})
    try:
        assert talk.getsubprotocol() == protocol
        coded = "base64" in protocol
        if coded:
            talk.send("0" + base64.b64encode(b"abc\n").decode())
        else:
            talk.send_binary(b"\0abc\n")
        heard: dict[int, bytes] = {}
        while 3 not in heard:
            message = talk.recv()
            channel, data = (int(message[0]), base64.b64decode(message[1:])) if coded else (message[0], message[1:])
            heard[channel] = heard.get(channel, b"") + data
    finally:
        talk.shutdown()
    assert heard[1] == b"abc\n"
    words = heard[3].decode() if protocol == "base64.channel.k8s.io" else json.loads(heard[3])["message"]
    assert words.startswith("command terminated with non-zero exit code"), "before version 4 it is no JSON"


@pytest.mark.parametrize("websockets", ["true", "false"], ids=["websocket", "spdy"])
def test_kubectl_exec_logs_and_port_forward(
    served: Served, monkeypatch: pytest.MonkeyPatch, websockets: str
) -> None:
    """By WebSocket, and by SPDY, which kubectl before 1.30 speaks."""
    for variable in ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"):
        monkeypatch.setenv(variable, websockets)
    run_a_pod(served)
    done = kubectl(served, "exec", "-i", "p", "--", "sh", "-c", "tr a-z A-Z; exit 3", stdin="abc")
    assert (done.stdout, done.returncode) == ("ABC", 3)
    assert kubectl(served, "attach", "-i", "-q", "p", stdin="abc").stdout == "ABC", "attach reaches stdin, and ends it"
    for args, words in ((("p", "--", "no-such-command"), "error: OCI runtime exec failed: executable file not found"),
                        (("p", "-c", "other", "--", "ls"), "container other is not valid for pod p")):
        failed = kubectl(served, "exec", *args)
        assert words in failed.stderr, "not what kubectl makes of a refused upgrade"
        assert failed.returncode == 1
    assert kubectl(served, "logs", "p", "--tail=2").stdout == "line 3\nline 4\n"
    assert kubectl(served, "logs", "p", "-f").stdout.endswith("later\n")
    assert 'previous terminated container "c" in pod "p" not found' in kubectl(served, "logs", "p", "-p").stderr
    home = served.kubeconfig.parent
    with subprocess.Popen(["kubectl", "--kubeconfig", str(served.kubeconfig), "port-forward", "pod/p", ":80"],
                          stdout=subprocess.PIPE, text=True, env={**os.environ, "HOME": str(home)}) as forward:
        try:
            assert forward.stdout
            port = int(forward.stdout.readline().split("127.0.0.1:")[1].split()[0])
            with socket.create_connection(("127.0.0.1", port), timeout=60) as forwarded:
                sender = threading.Thread(target=lambda: (forwarded.sendall(b"x" * 500_000),
                                                          forwarded.shutdown(socket.SHUT_WR)))
                sender.start()
                with forwarded.makefile("rb") as answer:
                    assert answer.read() == b"X" * 500_000
                sender.join()
        finally:
            forward.kill()


def test_kubectl_every_day(served: Served) -> None:
    manifest = json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", **deployment()})
    assert kubectl(served, "apply", "-f", "-", stdin=manifest).stdout == "deployment.apps/web created\n"
    assert kubectl(served, "apply", "-f", "-", stdin=manifest).stdout == "deployment.apps/web unchanged\n"
    assert kubectl(served, "scale", "deploy/web", "--replicas=3").stdout == "deployment.apps/web scaled\n"
    assert kubectl(served, "autoscale", "deploy/web", "--max=3").returncode == 0     # it speaks protobuf
    assert "<unknown>/80%   1         3" in kubectl(served, "get", "hpa").stdout
    table = kubectl(served, "get", "deploy", "-o", "wide").stdout.splitlines()
    assert table[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]
    assert table[1].split()[:2] == ["web", "0/3"]
    assert kubectl(served, "create", "service", "nodeport", "np", "--tcp=80", "--node-port=30080").returncode == 0
    assert "provided port is already allocated" in kubectl(
        served, "create", "service", "nodeport", "np2", "--tcp=80", "--node-port=30080").stderr
    assert kubectl(served, "create", "serviceaccount", "sa").returncode == 0
    token = kubectl(served, "create", "token", "sa").stdout.strip()
    _, review = call(served, "/apis/authentication.k8s.io/v1/selfsubjectreviews", "POST", {}, token=token)
    assert review["status"]["userInfo"]["username"] == "system:serviceaccount:default:sa"
    code, refused = call(served, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "POST", {},
                         Accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    assert (code, refused["reason"]) == (406, "NotAcceptable"), "an answer is no table"
    assert kubectl(served, "auth", "can-i", "*", "*").stdout == "yes\n"
    assert 'Error from server (NotFound): deployments.apps "none" not found' in kubectl(
        served, "get", "deploy", "none").stderr
    assert kubectl(served, "delete", "deploy", "web").stdout == 'deployment.apps "web" deleted\n'
    assert kubectl(served, "get", "nodes").stderr == "No resources found\n"


class Behind(http.server.BaseHTTPRequestHandler):
    """What a pod serves: it says what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        said = {"asked": f"{self.command} {self.path}", "body": self.rfile.read(length).decode(),
                "headers": {k.lower(): v for k, v in self.headers.items()}}
        body = b'<a href="/x">a</a><img src=/y><b x="/z"><a href="//h/x">' if "page" in self.path \
            else json.dumps(said).encode()
        self.send_response(302 if "away" in self.path else 418 if "tea" in self.path else 200)
        if "away" in self.path:
            self.send_header("Location", "/there?x=1")
        if "bare" not in self.path:         # else the body ends with the connection
            self.send_header("Content-Length", str(len(body)))
        if "page" in self.path:
            self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


def test_the_api_passes_requests_on_and_counts_them(served: Served) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Behind) as behind, socket.socket() as silent:
        threading.Thread(target=behind.serve_forever).start()
        silent.bind(("127.0.0.1", 0))
        port, nobody = behind.server_port, silent.getsockname()[1]
        run_a_pod(served)
        create, base = served.api.create, "/api/v1/namespaces/default"
        served.run(served.api.patch, "pods", "p", {"status": {"podIP": "10.224.0.6"}}, "default", subresource="status")
        served.run(create, "nodes", {"metadata": {"name": "n1"}})
        served.run(create, "services", {**service(), "metadata": {"name": "s", "namespace": "default"}})
        first = served.api.get("services", "s", "default")["spec"]["ports"][0]
        served.run(create, "endpoints", {"metadata": {"name": "s", "namespace": "default"}, "subsets": [
            {"addresses": [{"ip": "10.224.0.6", "nodeName": "n1"}], "notReadyAddresses": [{"ip": "10.224.0.9"}],
             "ports": [{"name": first.get("name", ""), "port": port}]}]})
        try:
            code, said = call(served, f"{base}/pods/p:{port}/proxy/a%20b/c?x=1&y=%2f", "POST", {"z": 1})
            assert (code, said["asked"], said["body"]) == (200, "POST /a%20b/c?x=1&y=%2f", '{"z": 1}')
            assert "authorization" not in said["headers"]
            assert said["headers"]["x-forwarded-for"] == "127.0.0.1"
            assert said["headers"]["x-forwarded-uri"] == f"{base}/pods/p:{port}/proxy/a%20b/c"
            for asked, answered in ((f"pods/p:{port}/proxy/bare", "GET /bare"),
                                    (f"services/s:{first['port']}/proxy/", "GET /"),
                                    (f"pods/p:{port}/proxy", "GET /"),            # after a redirect
                                    (f"pods/p:{port}/proxy/away", "GET /there?x=1")):
                assert call(served, f"{base}/{asked}")[1]["asked"] == answered
            assert call(served, f"{base}/pods/p:{port}/proxy/tea")[0] == 418
            way = f"{base}/pods/p:{port}/proxy"
            assert kubectl(served, "get", "--raw", f"{way}/page").stdout == (
                f'<a href="{way}/x">a</a><img src={way}/y><b x="/z"><a href="//h/x">')
            refusals = ((f"pods/p:{nobody}/proxy/", 503, f"dial tcp 10.224.0.6:{nobody}: connect: connection refused"),
                        ("pods/a:b:c:d/proxy/", 400, 'invalid pod request "a:b:c:d"'),
                        ("services/ftp:s:80/proxy/", 400, 'invalid service request "ftp:s:80"'),
                        ("services/s:9/proxy/", 503, 'no service port 9 found for service "s"'),
                        ("services/s:other/proxy/", 503, 'no endpoints available for service "s:other"'),
                        ("services/none/proxy/", 404, 'endpoints "none" not found'))
            for asked, code, words in refusals:
                refused, about = call(served, f"{base}/{asked}")
                assert (refused, words in about["message"]) == (code, True), about
        finally:
            behind.shutdown()
    assert kubectl(served, "get", "--raw", "/api/v1/nodes/n1/proxy/healthz").stdout == "n1 /healthz"
    printed = kubectl(served, "get", "--raw", "/metrics").stdout
    about = 'component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="proxy",verb='
    assert f'apiserver_request_total{{{about}"CONNECT",version="v1",code="418",' in printed
    assert f'apiserver_request_duration_seconds_bucket{{{about}"CONNECT",version="v1",le="+Inf"}}' in printed
    assert 'etcd_object_counts{resource="pods"} 1' in printed
