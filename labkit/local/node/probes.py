"""Probes: whether a container has started, is ready, is alive. Run from the node's namespace, as kubelets do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from labkit.local.client import Obj

RunCommand = Callable[[list[str], float], Awaitable[tuple[int, str]]]
"""Run a command in the container: (exit code, output)."""
MakeSocket = Callable[[], Awaitable[socket.socket]]

_EAGER = 0.15  # seconds between tries until the first success: a learner waits for it
NO_CHECKS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
NO_CHECKS.check_hostname = False
NO_CHECKS.verify_mode = ssl.CERT_NONE  # as kubelets do: a probe asks whether, not whom


@dataclass(frozen=True)
class Target:
    """How to reach a container."""

    address: str
    ports: dict[str, int]
    run: RunCommand
    make_socket: MakeSocket


async def attempt(probe: Obj, target: Target) -> tuple[bool, str]:
    """Probe once: whether it succeeded, and what to say if it did not."""
    timeout = probe.get("timeoutSeconds", 1)
    try:
        async with asyncio.timeout(timeout + (1 if "exec" in probe else 0)):
            if "exec" in probe:
                code, output = await target.run(list(probe["exec"].get("command") or ()), timeout)
                return code == 0, output.strip()
            if "httpGet" in probe:
                return await http_get(probe["httpGet"], target)
            if "tcpSocket" in probe:
                await _tcp(probe["tcpSocket"], target)
    except TimeoutError:
        return False, "context deadline exceeded"
    except OSError as error:
        return False, str(error)
    return True, ""


def _port(value: int | str, target: Target) -> int:
    return value if isinstance(value, int) else target.ports.get(value) or int(value if value.isdigit() else 0)


async def _connect(spec: Obj, target: Target) -> socket.socket:
    sock = await target.make_socket()
    sock.setblocking(False)
    address = (spec.get("host") or target.address, _port(spec["port"], target))
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except OSError as error:
        sock.close()
        why = os.strerror(error.errno).lower() if error.errno else error  # asyncio words it in its own way
        raise OSError(f"dial tcp {address[0]}:{address[1]}: connect: {why}") from error
    except asyncio.CancelledError:
        sock.close()
        raise
    return sock


async def _tcp(spec: Obj, target: Target) -> None:
    (await _connect(spec, target)).close()


async def http_get(spec: Obj, target: Target) -> tuple[bool, str]:
    """Ask: whether the answer was a good one, and what to say if not.

    Raises:
        OSError: nobody answers.
    """
    secure = spec.get("scheme", "HTTP") == "HTTPS"
    path = spec.get("path") or "/"
    try:
        sock = await _connect(spec, target)
    except OSError as error:
        where = f"{spec.get('host') or target.address}:{_port(spec['port'], target)}"
        raise OSError(f'Get "{"https" if secure else "http"}://{where}{path}": {error}') from error
    reader, writer = await asyncio.open_connection(
        sock=sock, ssl=NO_CHECKS if secure else None, server_hostname="" if secure else None)
    try:
        headers = {"Host": f"{target.address}:{_port(spec['port'], target)}", "User-Agent": "kube-probe",
                   "Accept": "*/*", "Connection": "close"}
        headers |= {header["name"]: header["value"] for header in spec.get("httpHeaders") or ()}
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        first = (await reader.readline()).split()
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
    if len(first) < 2 or not first[1].isdigit():
        return False, "malformed HTTP response"
    code = int(first[1])
    return 200 <= code < 400, f"HTTP probe failed with statuscode: {code}"


async def until_success(probe: Obj, target: Target, failed: Callable[[str], None]) -> bool:
    """Probe a container that starts.

    Until it succeeds for the first time it is asked more often than its period says, so that a pod is
    ready when it is ready; only failures at the period's pace count and are reported.

    Returns:
        Whether it succeeded before `failureThreshold` failures.
    """
    loop = asyncio.get_running_loop()
    period, failures, wait = probe.get("periodSeconds", 10), 0, _EAGER
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    next_counted = loop.time() + period
    while True:
        good, message = await attempt(probe, target)
        if good:
            return True
        if loop.time() >= next_counted:
            next_counted = loop.time() + period
            failures += 1
            failed(message)
            if failures >= probe.get("failureThreshold", 3):
                return False
        await asyncio.sleep(min(wait, period))
        wait *= 1.3


async def watch(probe: Obj, target: Target, changed: Callable[[bool], None], failed: Callable[[str], None],
                *, good: bool) -> None:
    """Probe for good, and report each time the verdict changes by the probe's thresholds."""
    count = 0
    while True:
        await asyncio.sleep(probe.get("periodSeconds", 10))
        success, message = await attempt(probe, target)
        if not success:
            failed(message)
        count = count + 1 if success != good else 0
        threshold = probe.get("successThreshold", 1) if success else probe.get("failureThreshold", 3)
        if success != good and count >= threshold:
            good, count = success, 0
            changed(good)
