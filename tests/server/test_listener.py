import asyncio
import base64
import http.client
import ssl
import threading

import pytest

from labkit.local.server.listener import FrontDoor, HttpService, Listener, listen_on_loopback
from labkit.local.server.tls import ensure_certificates

FQDN = "demo-1234.hcp.canadaeast.azmk8s.io"


def proxy_authorization(client, token):
    return "Basic " + base64.b64encode(f"{client}:{token}".encode()).decode()


def says(name):
    async def application(scope, receive, send):
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"%d" % len(name))],
            }
        )
        await send({"type": "http.response.body", "body": name.encode()})

    return application


@pytest.fixture
def door(tmp_path):
    """A front door with ARM behind it, one API, and a client that reaches only a refusing address."""
    certificates = ensure_certificates(tmp_path, ["canadaeast"])
    ready, done = threading.Event(), None
    port = 0

    async def dial(name, address, port):
        if name != "alice":
            raise LookupError(f"no outside client {name!r}")
        raise ConnectionRefusedError("Connection refused")

    async def serve():
        nonlocal port, done
        done = asyncio.Event()
        context = certificates.server_context()
        front = FrontDoor("s3cret", dial)
        front.open(HttpService(says("arm"), context))
        front.add_api(FQDN, HttpService(says("api"), context))
        listening = listen_on_loopback(0)
        port = listening.getsockname()[1]
        listener = Listener(listening, front.handle)
        loop[0] = asyncio.get_running_loop()
        ready.set()
        await done.wait()
        await listener.close()

    loop = [None]
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(60)
    yield port, ssl.create_default_context(cafile=certificates.ca)
    loop[0].call_soon_threadsafe(done.set)
    thread.join(60)


def test_tls_is_for_the_resource_manager(door):
    port, context = door
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"arm"
    connection.close()


def test_connect_to_an_api_name_becomes_tls_to_that_api(door):
    port, context = door
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
    connection.set_tunnel(FQDN, 443)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"api"
    connection.close()


def tunnel_refusal(port, host, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("CONNECT", f"{host}:80", headers=headers or {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_refusals_say_what_to_do(door):
    port, _ = door
    assert tunnel_refusal(port, "192.0.2.1")[0] == 407
    assert (
        tunnel_refusal(port, "192.0.2.1", {"Proxy-Authorization": proxy_authorization("alice", "wrong")})[0]
        == 407
    )
    status, text = tunnel_refusal(
        port, "192.0.2.1", {"Proxy-Authorization": proxy_authorization("alice", "s3cret")}
    )
    assert (status, "alice could not connect to 192.0.2.1:80" in text) == (502, True)
    status, text = tunnel_refusal(
        port, "192.0.2.1", {"Proxy-Authorization": proxy_authorization("mallory", "s3cret")}
    )
    assert (status, "mallory" in text) == (404, True)
    status, text = tunnel_refusal(port, "gone.hcp.canadaeast.azmk8s.io")
    assert (status, "labkit status" in text) == (404, True)


def test_plain_http_is_told_to_speak_tls(door):
    port, _ = door
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/subscriptions")
    answer = connection.getresponse()
    assert (answer.status, b"https://" in answer.read()) == (400, True)
    connection.close()


def test_private_files_are_private_and_certificates_are_kept(tmp_path):
    first = ensure_certificates(tmp_path, ["canadaeast"])
    before = first.server.read_bytes()
    assert ensure_certificates(tmp_path, ["canadaeast"]).server.read_bytes() == before
    assert {f.stat().st_mode & 0o777 for f in (first.ca, first.server, first.bundle)} == {0o600}
