from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from labkit.local.client import ApiError
from labkit.local.programs.kubeclient import HttpClient
from labkit.local.programs.kubewire import Unreachable
from tests.ports import free_port


def service(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": str(version)}}


class ScriptedApi(ThreadingHTTPServer):
    """Answers lists with `listed`, watches with `events` (then holds them open), records requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.listed = [service("a", 1), service("b", 2)]
        self.events: list[list[dict[str, Any]]] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.peers: list[Any] = []
        self.silent = 0         # so many writes more are taken and not answered
        self.tired = False      # a connection ends after a write, without a word about it
        self.closing = False    # or with one
        self.stop = threading.Event()
        self.clients: list[HttpClient] = []

    def client(self, **options: Any) -> HttpClient:
        """A client of this API, closed with it."""
        self.clients.append(HttpClient(self.url, **options))
        return self.clients[-1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedApi

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, body: dict[str, Any], code: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        if self.server.closing:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.server.requests.append(("GET", self.path, self.headers.get("Authorization")))
        self.server.peers.append(self.client_address)
        if url.path.endswith("/missing"):
            self.answer({"kind": "Status", "reason": "NotFound", "message": 'services "missing" not found'}, 404)
        elif url.path == "/apis/new.example.com":
            self.answer({"preferredVersion": {"version": "v2beta1"}})
        elif "watch" in parse_qs(url.query):
            self.watch()
        else:
            self.answer({"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "10"},
                         "items": self.server.listed})

    def watch(self) -> None:
        events = self.server.events.pop(0) if self.server.events else []
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(json.dumps(event).encode() + b"\n")
        self.wfile.flush()
        if not self.server.events:
            self.server.stop.wait(60)
        self.close_connection = True

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.command, self.path, (self.headers["Content-Type"], body)))
        self.server.peers.append(self.client_address)
        if self.server.silent:
            self.server.silent -= 1
            self.close_connection = True
            return
        self.answer(service("a", 3))
        self.close_connection = self.server.tired

    def do_POST(self) -> None:
        self.do_PATCH()

    def do_DELETE(self) -> None:
        self.do_PATCH()


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    server = ScriptedApi()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    for client in server.clients:
        client.close()
    server.stop.set()
    server.shutdown()
    thread.join()
    server.server_close()


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def test_paths_of_core_grouped_and_unknown_resources(api: ScriptedApi) -> None:
    client = api.client(token="secret")
    assert client.list("services", "default")[0]["kind"] == "Service"
    client.list("endpointslices.discovery.k8s.io", label_selector="a=b")
    client.list("things.new.example.com")
    assert [path for _, path, _ in api.requests] == [
        "/api/v1/namespaces/default/services", "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=a%3Db",
        "/apis/new.example.com", "/apis/new.example.com/v2beta1/things"]
    assert api.requests[0][2] == "Bearer secret"


def test_errors_carry_kubernetes_reason_and_words(api: ScriptedApi) -> None:
    with pytest.raises(ApiError, match='services "missing" not found') as caught:
        api.client().get("services", "missing", "default")
    assert (caught.value.code, caught.value.reason) == (404, "NotFound")


def test_patch_types(api: ScriptedApi) -> None:
    client = api.client(user_agent="felix")
    client.patch("services", "a", {"spec": {}}, "default", type="apply", subresource="status")
    _, path, (content_type, body) = api.requests[-1]
    assert path == "/api/v1/namespaces/default/services/a/status?fieldManager=felix&force=true"
    assert (content_type, body) == ("application/apply-patch+yaml", {"spec": {}})


def test_what_is_written_where(api: ScriptedApi) -> None:
    client = api.client()
    client.create("services", service("a", 1))
    client.create("namespaces", {"metadata": {"name": "shop", "namespace": "of no meaning"}})
    client.delete("pods", "a", "default", grace_period=0, propagation="Orphan", uid="u1")
    client.delete("pods", "a", "default")
    options = {"kind": "DeleteOptions", "apiVersion": "v1"}
    assert [(verb, path) for verb, path, _ in api.requests] == [
        ("POST", "/api/v1/namespaces/default/services"), ("POST", "/api/v1/namespaces"),
        *[("DELETE", "/api/v1/namespaces/default/pods/a")] * 2]
    assert [body for _, _, (_, body) in api.requests[2:]] == [
        {**options, "gracePeriodSeconds": 0, "propagationPolicy": "Orphan", "preconditions": {"uid": "u1"}}, options]


def test_a_lists_items_keep_the_kind_that_they_name(api: ScriptedApi) -> None:
    api.listed = [{"kind": "Other", "apiVersion": "v9", "metadata": {"name": "a"}}, service("b", 1)]
    found = api.client().list("services")
    assert [(item["kind"], item["apiVersion"]) for item in found] == [("Other", "v9"), ("Service", "v1")]


def test_a_connection_that_the_api_has_closed_is_begun_anew_once(api: ScriptedApi) -> None:
    client = api.client()
    api.tired = True
    client.patch("services", "a", {}, "default")
    client.patch("services", "a", {}, "default")
    assert len(set(api.peers)) == 2


@pytest.mark.parametrize(("earlier", "closing", "asked"), [(0, False, 1), (1, False, 3), (1, True, 2)])
def test_a_write_that_nobody_answers_is_repeated_on_a_new_connection_only(
        api: ScriptedApi, earlier: int, closing: bool, asked: int) -> None:
    """On a new connection the API may have taken it; an old one may have been closed while nobody used it."""
    client, api.closing = api.client(), closing
    for _ in range(earlier):
        client.patch("services", "a", {}, "default")
    api.silent = 2
    with pytest.raises(Unreachable):
        client.patch("services", "a", {}, "default")
    assert len(api.requests) == asked


def test_what_is_no_hangup_is_not_tried_again(api: ScriptedApi, monkeypatch) -> None:
    client, tries = api.client(), []
    client.version()

    def slow(*_: Any, **__: Any) -> None:
        tries.append(1)
        raise TimeoutError("timed out")

    monkeypatch.setattr(client._local.connection, "request", slow)
    monkeypatch.setattr(client, "connect", lambda timeout: pytest.fail("it was tried again"))
    with pytest.raises(Unreachable):
        client.version()
    assert tries == [1]


def test_a_token_is_read_again_and_an_old_one_outlives_its_file(api: ScriptedApi, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("labkit.local.programs.kubeclient._TOKEN_LIFE", -1.0)
    file = tmp_path / "token"
    client = api.client(token=file)
    for step in (lambda: file.write_text("one\n"), lambda: file.write_text("two"), file.unlink):
        step()
        client.version()
    assert [said for _, _, said in api.requests] == ["Bearer one", "Bearer two", "Bearer two"]


@pytest.mark.parametrize(("url", "port"), [
    ("http://10.0.0.1", 80), ("https://10.0.0.1", 443), ("https://10.0.0.1:6443/", 6443)])
def test_a_scheme_has_its_port(url: str, port: int) -> None:
    assert HttpClient(url).connect(1.0).port == port


def test_no_listener_is_said_in_words() -> None:
    with pytest.raises(Unreachable, match="failed to connect to API server"):
        HttpClient(f"http://127.0.0.1:{free_port()}").version()


@pytest.mark.parametrize(("code", "why"), [(socket.EAI_AGAIN, "i/o timeout"), (socket.EAI_NONAME, "no such host")])
def test_a_name_that_is_not_found_is_said_as_calicos_programs_say_it(monkeypatch, code: int, why: str) -> None:
    def nobody(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(code, "said in C's words")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(Unreachable, match=rf"dial tcp: lookup api.example on \S+:53: {why}$"):
        HttpClient("https://api.example").version()


def test_watch_lists_then_follows(api: ScriptedApi) -> None:
    api.events = [[{"type": "MODIFIED", "object": service("a", 11)}, {"type": "DELETED", "object": service("b", 12)}]]
    seen: list[tuple[str, str]] = []
    watch = api.client().watch("services", lambda event, obj: seen.append((event, obj["metadata"]["name"])))
    wait_for(lambda: len(seen) == 4)
    watch.close()
    assert watch.synced.is_set()
    assert seen == [("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]


def test_a_watch_follows_by_the_connection_that_its_list_came_by(api: ScriptedApi) -> None:
    """A new one would need the server's name, which nobody may answer just then."""
    client = api.client()
    watch = client.watch("services", lambda event, obj: None)
    wait_for(lambda: len(api.requests) == 2)
    watch.close()
    assert len(set(api.peers)) == 1


def test_a_watch_that_cannot_begin_again_fails_since_the_first_time(api: ScriptedApi, caplog) -> None:
    client, down, refused = api.client(), threading.Event(), []
    begin = client.stream

    def stream(connection: Any, path: str) -> Any:
        if down.is_set():
            refused.append(path)
            raise OSError("no answer")
        return begin(connection, path)

    client.stream = stream  # type: ignore[method-assign]
    api.events = [[{"type": "MODIFIED", "object": service("a", 11)}], []]
    with caplog.at_level("INFO", "kubeclient"):
        watch = client.watch("services", lambda event, obj: down.set() if event == "MODIFIED" else None)
        wait_for(lambda: watch.failing_since is not None)
        since = watch.failing_since
        wait_for(lambda: len(refused) > 2)
        assert watch.failing_since == since
        assert "back" not in caplog.text
        down.clear()
        wait_for(lambda: watch.failing_since is None)
        watch.close()
    assert caplog.text.count("is back") == 1


def test_watch_resumes_from_the_last_version_it_saw(api: ScriptedApi) -> None:
    api.events = [[{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "77"}}}], []]
    watch = api.client().watch("services", lambda event, obj: None)
    wait_for(lambda: sum("watch=1" in path for _, path, _ in api.requests) == 2)
    watch.close()
    assert "resourceVersion=77" in api.requests[-1][1]


def test_after_410_what_vanished_is_deleted_and_what_changed_modified(api: ScriptedApi) -> None:
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
    api.events = [[gone], []]
    seen: list[tuple[str, str]] = []
    held = threading.Event()

    def handler(event: str, obj: dict[str, Any]) -> None:
        seen.append((event, obj["metadata"]["name"]))
        if len(seen) == 2:  # the list is in; the world changes while the watch is away
            api.listed = [service("a", 20), service("c", 21)]
            held.set()

    watch = api.client().watch("services", handler)
    wait_for(lambda: len(seen) == 5)
    watch.close()
    assert seen[2:] == [("MODIFIED", "a"), ("ADDED", "c"), ("DELETED", "b")]


def test_a_handler_that_fails_on_one_object_still_gets_the_next(api: ScriptedApi) -> None:
    seen: list[str] = []

    def handler(event: str, obj: dict[str, Any]) -> None:
        seen.append(obj["metadata"]["name"])
        if len(seen) == 1:
            raise KeyError("spec")

    watch = api.client().watch("services", handler)
    wait_for(lambda: seen == ["a", "b"])
    watch.close()


def test_a_handshake_that_went_astray_is_begun_anew(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.listed = []
    dial, waits = socket.create_connection, []

    def astray_at_first(address: Any, timeout: float, source: Any) -> socket.socket:
        waits.append(timeout)
        if len(waits) == 1:
            raise TimeoutError("timed out")
        return dial(address, timeout, source)

    monkeypatch.setattr(socket, "create_connection", astray_at_first)
    client = api.client(timeout=30)
    assert client.list("services") == []
    assert len(waits) == 2
    assert max(waits) <= 1
    assert client._local.connection.sock.gettimeout() == 30, "an answer may take longer than a handshake"
