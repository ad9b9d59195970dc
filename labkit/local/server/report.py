"""`labkit status`: what runs, on which data plane, and what it costs this machine."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from typing import Any

from labkit.local.paths import LabPaths
from labkit.local.server import errors
from labkit.local.server.lifecycle import DaemonInfo


def fetch(paths: LabPaths, info: DaemonInfo) -> dict[str, Any]:
    """Ask the daemon for its state.

    Raises:
        LabError: it does not answer, or refuses our token.
    """
    connection = http.client.HTTPSConnection(
        "127.0.0.1", info.port, context=ssl.create_default_context(cafile=info.ca_file), timeout=10
    )
    try:
        connection.request("GET", "/labkit/status", headers={"Authorization": f"Bearer {info.client_token}"})
        answer = connection.getresponse()
        body = answer.read()
    except OSError as error:
        raise errors.LabError(
            f"The lab's daemon (process {info.pid}) does not answer: {error}.",
            fix=f"look into {paths.log_file}; `labkit down` and `labkit up` start anew.",
        ) from error
    finally:
        connection.close()
    if answer.status != 200:
        raise errors.LabError(
            f"The lab's daemon refused: {answer.status} {body.decode(errors='replace').strip()}.",
            fix=f"its token is in {paths.daemon_file}, which only the lab's owner reads; run this as that user.",
        )
    state: dict[str, Any] = json.loads(body)
    return state


def as_json(paths: LabPaths, info: DaemonInfo) -> str:
    """The state as JSON."""
    return json.dumps(fetch(paths, info), indent=2)


def as_text(paths: LabPaths, info: DaemonInfo) -> str:
    """The state as a person reads it."""
    state = fetch(paths, info)
    lab = state["lab"]
    lines = [
        f"lab      {info.url}   process {info.pid}, up {lab['uptime_seconds']:.0f} s, "
        f"{lab['memory_mb']:.0f} MB, {lab['cpu_seconds']:.1f} CPU-seconds",
        f"home     {paths.home}",
        "clients  " + ", ".join(f"{c['name']} {c['address']}" for c in state["clients"]),
    ]
    if not state["clusters"]:
        lines.append("clusters none; notebook 01 or `az aks create` makes one")
    for cluster in sorted(state["clusters"], key=lambda cluster: (cluster["resource_group"], cluster["name"])):
        lines += [
            "",
            f"cluster  {cluster['name']} in {cluster['resource_group']}: Kubernetes {cluster['version']}, "
            f"{cluster['objects']} objects, API {cluster['fqdn']}:443",
        ]
        lines += [
            f"  {n['name']:<34} {n['ip']:<13} {n['status']:<9} {n['data_plane']:<18} {n['pods']:>3} pods "
            f"{n['cpu_seconds']:>8.1f} CPU-s"
            for n in cluster["nodes"]
        ]
    return "\n".join(lines)


def process_use() -> dict[str, float]:
    """Memory and CPU of this process."""
    with open("/proc/self/statm") as stream:
        pages = int(stream.read().split()[1])
    times = os.times()
    return {"memory_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6, "cpu_seconds": times.user + times.system}
