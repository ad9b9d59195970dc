"""The daemon: one asyncio process that owns the lab's sockets, clusters and state."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import hmac
import logging
import os
import signal
import socket
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from labkit.local.arm import ArmStore, arm_app
from labkit.local.arm.catalogue import REGIONS
from labkit.local.arm.identity import LabTokens
from labkit.local.dataplane.compile import objects
from labkit.local.fabric import Fabric
from labkit.local.node.kubelet import mount_bpffs
from labkit.local.paths import LabPaths
from labkit.local.server import mirror, report
from labkit.local.server.addresses import PublicAddresses
from labkit.local.server.cluster import Surroundings
from labkit.local.server.lifecycle import DaemonInfo
from labkit.local.server.listener import FrontDoor, HttpService, Listener, listen_on_loopback
from labkit.local.server.manager import ClusterManager
from labkit.local.server.secrets import Secrets
from labkit.local.server.tls import ensure_certificates

log = logging.getLogger(__name__)

_CLIENTS = {"alice": "203.0.113.10", "bob": "198.51.100.20"}
_DIAL_TIMEOUT = 10.0
_NAMESPACE = uuid.UUID(
    "6f1d8c1e-6d2f-4b55-8f0a-6c61626b6974"
)  # for ids that must be the same after a restart


class Daemon:
    """A running lab.

    Args:
        paths: where it lives.
        port: the loopback port; 0 takes any free one.
    """

    def __init__(self, paths: LabPaths, port: int) -> None:
        self._paths, self._port = paths, port
        self._started = time.monotonic()
        self._fabric = Fabric(paths)

    async def run(self, until: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve until the event is set; `ready` is called once."""
        paths = self._paths
        lock = _exclusive(paths)
        listening = listen_on_loopback(self._port)
        port = listening.getsockname()[1]
        url = f"https://localhost:{port}"
        certificates = ensure_certificates(paths.home, REGIONS)
        secrets = Secrets.ensure(paths.home)
        self._secrets = secrets
        context = certificates.server_context()
        await asyncio.to_thread(self._prepare_kernel)
        mirror.write(paths.home)

        database = sqlite3.connect(paths.database, isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        paths.database.chmod(0o600)
        tokens = LabTokens(
            secrets.key,
            secrets.identity_header,
            tenant=_guid(paths, "tenant"),
            subscription=_guid(paths, "subscription"),
        )
        # ARM needs the manager and the front door needs ARM: the manager comes first, with a door that opens last.
        front_door = FrontDoor(secrets.client_token, self._dial)
        around = Surroundings(
            paths=paths,
            fabric=self._fabric,
            database=database,
            addresses=PublicAddresses(database),
            secrets=secrets,
            context=context,
            ca_pem=certificates.ca.read_bytes(),
            front_door=front_door,
            objects=objects(),
            subscription=tokens.subscription,
        )
        self._manager = manager = ClusterManager(around, f"http://127.0.0.1:{port}")
        arm = arm_app(ArmStore(database), manager, tokens)
        application = Starlette(
            routes=[
                Route("/labkit/status", self._status),
                Mount("/", app=arm),
            ]
        )
        front_door.open(service := HttpService(application, context))
        await manager.restore()
        arm.operations.resume()
        listener = Listener(listening, front_door.handle)
        DaemonInfo(
            url=url,
            port=port,
            pid=os.getpid(),
            ca_file=str(certificates.ca),
            ca_bundle=str(certificates.bundle),
            subscription=tokens.subscription,
            tenant=tokens.tenant,
            identity_endpoint=f"{url}/msi/token",
            identity_header=secrets.identity_header,
            client_token=secrets.client_token,
            clients=self._clients(),
        ).write(paths)
        ready()
        log.info("ready on %s after %.2f s", url, time.monotonic() - self._started)
        try:
            await until.wait()
        finally:
            log.info("stopping")
            paths.daemon_file.unlink(missing_ok=True)
            await listener.close()
            service.close()
            await arm.operations.close()
            await manager.close()
            database.close()
            os.close(lock)

    def _prepare_kernel(self) -> None:
        paths = self._paths
        paths.run.mkdir(parents=True, exist_ok=True, mode=0o755)
        paths.cgroup.mkdir(exist_ok=True)
        mount_bpffs(paths)
        self._fabric.ensure_internet()
        for name, address in _CLIENTS.items():
            self._fabric.ensure_client(name, address)

    def _clients(self) -> list[dict[str, str]]:
        return [{"name": c.name, "address": c.address} for c in self._fabric.clients()]

    async def _dial(self, name: str, address: str, port: int) -> socket.socket:
        """A connection from an outside client."""
        space = self._fabric.client_netns(name)
        if space is None:
            names = ", ".join(c["name"] for c in await asyncio.to_thread(self._clients))
            raise LookupError(
                f"The lab has no outside client {name!r}; there are {names}. "
                f"`sudo labkit client {name} true` makes one."
            )
        connection = await asyncio.to_thread(
            self._fabric.socket_in, space, socket.AF_INET, socket.SOCK_STREAM
        )
        connection.setblocking(False)
        try:
            async with asyncio.timeout(_DIAL_TIMEOUT):
                await asyncio.get_running_loop().sock_connect(connection, (address, port))
        except BaseException:
            connection.close()
            raise
        return connection

    async def _status(self, request: Request) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given, self._secrets.client_token):
            return PlainTextResponse("the token is missing or wrong", status_code=401)
        lab: dict[str, Any] = {"uptime_seconds": time.monotonic() - self._started, **report.process_use()}
        clients = await asyncio.to_thread(self._clients)
        return JSONResponse({"lab": lab, "clients": clients, "clusters": self._manager.describe()})


def _guid(paths: LabPaths, what: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{paths.home}/{what}"))


def _exclusive(paths: LabPaths) -> int:
    """One daemon a lab: the lock goes with the process, however it ends."""
    descriptor = os.open(paths.home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise SystemExit(f"another daemon of this lab is running ({paths.home})") from error
    return descriptor


def main(home: str, port: str) -> None:
    """Leave a daemon behind, and return once it is ready; exit with 1 where it ends before."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        sys.exit(0 if os.read(reading, 1) else 1)
    os.close(reading)
    os.setsid()

    def ready() -> None:
        os.write(writing, b"R")
        os.close(writing)

    _serve(home, port, ready)


def _serve(home: str, port: str, ready: Callable[[], None]) -> None:
    import uvloop

    logging.basicConfig(
        level=os.environ.get("LABKIT_LOG", "INFO"), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    os.umask(0o077)
    _name_process("labkit-daemon")

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await Daemon(LabPaths(Path(home)), int(port)).run(stop, ready)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def _name_process(name: str) -> None:
    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME
