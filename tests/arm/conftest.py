"""Resource Manager served over TLS on loopback, as the SDKs meet it."""

import asyncio
import datetime
import ipaddress
import socket
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import RequestsTransport
from azure.mgmt.containerservice import ContainerServiceClient
from azure.mgmt.resource.resources import ResourceManagementClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from labkit.local.arm import ArmApp, ArmStore, LabTokens, arm_app
from tests.arm import shapes
from tests.arm.fakes import FakeClusters
from tests.arm.wire import Wire

SUBSCRIPTION = "03a08700-0000-4000-8000-00000000aa01"
TENANT = "11111111-2222-4333-8444-555555555555"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "labkit test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256()))
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                          serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@dataclass
class Arm:
    """A running Resource Manager and how to reach it."""

    url: str
    ca: Path
    tokens: LabTokens
    clusters: FakeClusters
    store: ArmStore
    app: ArmApp
    wire: Wire
    loop: asyncio.AbstractEventLoop
    stack: ExitStack

    @property
    def sub(self) -> str:
        return f"/subscriptions/{SUBSCRIPTION}"

    def request(self, method: str, path: str, *, json=None, content=None, token="good",
                version: str | None = "2025-04-01") -> httpx.Response:
        """One request, as a client without an SDK sends it."""
        headers = {}
        if token == "good":
            headers["Authorization"] = f"Bearer {self.tokens.issue('https://management.azure.com/')[0]}"
        elif token:
            headers["Authorization"] = token
        params = {"api-version": version} if version else {}
        with httpx.Client(base_url=self.url, verify=_context(self.ca), timeout=60) as client:
            return client.request(method, path, json=json, content=content, headers=headers, params=params)

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        """This object is a credential, too."""
        return AccessToken(*self.tokens.issue(scopes[0].removesuffix("/.default")))

    def resources(self) -> ResourceManagementClient:
        transport = RequestsTransport(connection_verify=str(self.ca))
        return self.stack.enter_context(
            ResourceManagementClient(self, SUBSCRIPTION, self.url, transport=transport))

    def aks(self, **options: object) -> ContainerServiceClient:
        transport = RequestsTransport(connection_verify=str(self.ca))
        return self.stack.enter_context(
            ContainerServiceClient(self, SUBSCRIPTION, self.url, transport=transport, **options))

    def make_group(self, name: str = "CalicoDemoRG") -> str:
        self.request("PUT", f"{self.sub}/resourcegroups/{name}", json={"location": "canadaeast"})
        return name


def _context(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca))


def database(path: Path) -> sqlite3.Connection:
    """The lab's database as the daemon opens it."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


@pytest.fixture
def arm(certificate: Path, tmp_path: Path) -> Iterator[Arm]:
    tokens = LabTokens(b"k" * 32, "identity-secret", TENANT, SUBSCRIPTION)
    store, clusters = ArmStore(database(tmp_path / "lab.db")), FakeClusters()
    app = arm_app(store, clusters, tokens)
    listener = socket.create_server(("127.0.0.1", 0))
    wire = Wire(app)
    server = uvicorn.Server(uvicorn.Config(
        wire, log_level="warning", ssl_certfile=certificate, ssl_keyfile=certificate, ws="none",
        timeout_graceful_shutdown=1))
    wire.server = server
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        await server.serve([listener])
        await app.operations.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()  # a client that left without TLS's goodbye
        await asyncio.sleep(0.05)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    url = f"https://localhost:{listener.getsockname()[1]}"
    stack = ExitStack()
    try:
        yield Arm(url, certificate, tokens, clusters, store, app, wire, loop, stack)
    finally:
        stack.close()
        # Clients that are still connected have nothing more to say: waiting for them takes a second each time.
        loop.call_soon_threadsafe(lambda: [c.transport.abort() for c in list(server.server_state.connections)])
        server.should_exit = True
        thread.join(60)
        loop.close()
        listener.close()
    assert shapes.problems(wire.exchanges, sent=False) == [], "what the lab answered is what Azure publishes"
