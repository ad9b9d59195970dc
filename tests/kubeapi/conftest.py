"""An Api, in process and served over loopback."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from labkit.local.kubeapi import Api, User
from labkit.local.server.upgrade import PromptProtocol

TOKEN = "secret-token"


def make_api(path: Path, version: str = "v1.20.2") -> Api:
    api = Api(path, "c1", version=version)
    api.authenticate = lambda token: User("admin") if token == TOKEN else None
    for name in ("default", "kube-system"):
        if not any(n["metadata"]["name"] == name for n in api.list("namespaces")):
            api.create("namespaces", {"metadata": {"name": name}})
    return api


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    api = make_api(tmp_path / "lab.db")
    yield api
    api.close()


@dataclass
class Served:
    """A served Api. Call it in its own thread with `run`."""

    api: Api
    url: str
    ca: Path
    loop: asyncio.AbstractEventLoop
    kubeconfig: Path

    def run(self, function, *args, **kwargs):
        async def call():
            return function(*args, **kwargs)
        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(60)


KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: lab, cluster: {{server: "{url}", certificate-authority: "{ca}"}}}}]
users: [{{name: me, user: {{token: "{token}"}}}}]
contexts: [{{name: lab, context: {{cluster: lab, user: me, namespace: default}}}}]
current-context: lab
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    yield from serve(tmp_path)


def make_certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one file: kubectl sends no token without TLS."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lab")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), True)
        .sign(key, hashes.SHA256()))
    path = folder / "server.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return path


def hang_up(api: Api, server: uvicorn.Server) -> None:
    """Stop at once: a client that left its socket open would keep TLS waiting for its goodbye."""
    api._http.close()
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    server.should_exit = True


def serve(tmp_path: Path, version: str = "v1.20.2") -> Iterator[Served]:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    url = f"https://127.0.0.1:{listening.getsockname()[1]}"
    certificate = make_certificate(tmp_path)
    started: list[object] = []
    ready = threading.Event()

    def main() -> None:
        async def go() -> None:
            api = make_api(tmp_path / "lab.db", version)
            config = uvicorn.Config(api, log_level="error", http=PromptProtocol, ws="wsproto", lifespan="off",
                                    access_log=False, timeout_graceful_shutdown=1,
                                    ssl_certfile=certificate, ssl_keyfile=certificate)
            server = uvicorn.Server(config)
            started.extend((api, server, asyncio.get_running_loop()))
            ready.set()
            await server.serve(sockets=[listening])
            api.close()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(go())

    thread = threading.Thread(target=main)
    thread.start()
    assert ready.wait(60)
    api, server, loop = started
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG.format(url=url, token=TOKEN, ca=certificate))
    yield Served(api, url, certificate, loop, kubeconfig)
    loop.call_soon_threadsafe(hang_up, api, server)
    thread.join(60)
    listening.close()
