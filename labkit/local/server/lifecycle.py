"""Start, find and stop the daemon; remove all that a lab left on the machine.

Removal needs no state and no daemon: everything carries the lab's id in its name. So it works after a
crash, twice in a row, and next to another lab.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from labkit import machine
from labkit.local.launcher.kernel import end_cgroup, kill_cgroup
from labkit.local.paths import LabPaths
from labkit.local.server import errors
from labkit.local.server.tls import write_private

DEFAULT_PORT = 10443
_START_TIMEOUT = 40.0  # seconds; a start takes about one, more with clusters to bring back
_STOP_TIMEOUT = 10.0
_OWN_FILES = (
    "lab.db",
    "lab.db-wal",
    "lab.db-shm",
    "daemon.json",
    "daemon.log",
    "key",
    "lock",
    "ca.pem",
    "server.pem",
    "ca-bundle.pem",
    "kubeconfig",
)
_OWN_FOLDERS = ("azure", "calico")


@dataclass(frozen=True)
class DaemonInfo:
    """What a client needs to know of a running lab; the content of daemon.json.

    Args:
        url: Azure Resource Manager's address.
        port: the loopback port, which is also the HTTP proxy to cluster APIs and from outside clients.
        pid: the daemon's process.
        ca_file: the authority that signed the lab's certificate, PEM.
        ca_bundle: the system's authorities and the lab's.
        subscription: the one subscription's id.
        tenant: its tenant's id.
        identity_endpoint: where a managed-identity token is asked for.
        identity_header: the secret that such a request carries.
        client_token: the password for outside clients' proxy authorisation.
        clients: outside clients' names and addresses.
    """

    url: str
    port: int
    pid: int
    ca_file: str
    ca_bundle: str
    subscription: str
    tenant: str
    identity_endpoint: str
    identity_header: str
    client_token: str
    clients: list[dict[str, str]]

    def write(self, paths: LabPaths) -> None:
        """Say that the daemon is ready."""
        write_private(paths.daemon_file, json.dumps(asdict(self), indent=1).encode())


def running(paths: LabPaths) -> DaemonInfo | None:
    """The running daemon, or None. A file that a killed daemon left does not count."""
    try:
        info = DaemonInfo(**json.loads(paths.daemon_file.read_text()))
        command = Path(f"/proc/{info.pid}/cmdline").read_bytes()
    except (OSError, ValueError, TypeError):
        return None
    return info if _is_daemon_of(paths, command) else None


def up(paths: LabPaths, *, port: int | None = None) -> DaemonInfo:
    """Start the lab's daemon, or find it running.

    Args:
        paths: the lab.
        port: the loopback port; None means LABKIT_PORT or 10443, 0 any free one.

    Raises:
        LabError: not root, a tool missing, the port in use, or the daemon ended.
    """
    if info := running(paths):
        return info
    if os.geteuid() != 0:
        raise errors.NotRootError("labkit up")
    if missing := machine.missing("lab"):
        raise errors.MissingToolError(missing)
    if port is None:
        port = _port_of(os.environ.get("LABKIT_PORT") or str(DEFAULT_PORT))
    try:
        _make_home(paths.home)
    except OSError as error:
        raise errors.HomeError(str(paths.home), error.strerror or str(error)) from error
    with _alone(paths.home):
        return running(paths) or _start(paths, port)


def _start(paths: LabPaths, port: int) -> DaemonInfo:
    for pid in _daemons(paths):  # one that nobody could find: still starting, or on its way out
        _stop(pid)
    _check_port(port)
    _make_home(paths.home)  # again: while we waited, `down` may have removed it
    paths.daemon_file.unlink(missing_ok=True)
    with open(paths.log_file, "ab", opener=_private) as log:
        # The process that we start leaves a daemon behind that is nobody's child, and ends once it is ready.
        try:
            code = subprocess.call(
                [sys.executable, "-m", "labkit.local.server", str(paths.home), str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                timeout=_START_TIMEOUT,
            )
        except subprocess.TimeoutExpired as error:
            for pid in _daemons(paths):
                _stop(pid)
            raise errors.StartTimeoutError(_START_TIMEOUT, str(paths.log_file)) from error
    info = running(paths)
    if code or info is None:
        raise errors.StartFailedError(str(paths.log_file), _tail(paths.log_file))
    give_to_user(paths.home)
    return info


def down(paths: LabPaths) -> list[str]:
    """Stop the daemon and remove everything that carries the lab's name.

    Args:
        paths: the lab.

    Returns:
        What was removed, in words; empty where nothing was left.

    Raises:
        LabError: there is something to remove, and we are not root.
    """
    removed: list[str] = []
    if os.geteuid() != 0:
        if running(paths) or paths.run.exists() or paths.cgroup.exists():
            raise errors.NotRootError("labkit down")
        return removed
    with _alone(paths.home):  # after a start that is under way, or it would go on in what we removed
        return _remove(paths)


def _remove(paths: LabPaths) -> list[str]:
    removed: list[str] = []
    for pid in _daemons(paths):
        _stop(pid)
        removed.append(f"daemon {pid}")
    if count := _kill_cgroup(paths.cgroup):
        removed.append(f"{count} processes")
    # The fabric knows its namespaces by name, the node its mounts: both are under our own names.
    from labkit.local.dataplane import repaired
    from labkit.local.fabric import Fabric, netns

    namespaces = netns.names(f"{paths.prefix}-")
    Fabric(paths).tear_down()
    if namespaces:
        removed.append(repaired.count(len(namespaces), "network namespace"))
    mounts = list(_mounts_under(paths.run))
    for mount in reversed(mounts):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    if mounts:
        removed.append(repaired.count(len(mounts), "mount"))
    if paths.cgroup.exists():
        end_cgroup(paths.cgroup)
        removed.append("cgroups")
    if paths.run.exists():
        shutil.rmtree(paths.run, ignore_errors=True)
        with contextlib.suppress(OSError):
            paths.run.parent.rmdir()
    if paths.home.exists():
        for name in _OWN_FILES:
            (paths.home / name).unlink(missing_ok=True)
        for file in paths.home.glob("kubeconfig-*"):  # students'
            file.unlink(missing_ok=True)
        for name in _OWN_FOLDERS:
            shutil.rmtree(paths.home / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            paths.home.rmdir()  # stays where the user keeps something of their own in it
        removed.append("state")
    return removed


def give_to_user(path: Path) -> None:
    """Under sudo: make the lab's files the calling user's, so that notebooks can read the tokens."""
    if user := _behind_sudo():
        for entry in (path, *path.rglob("*")):
            if entry.lstat().st_uid == 0:
                os.chown(entry, *user, follow_symlinks=False)


def _make_home(home: Path) -> None:
    """Make the home; the user behind sudo gets the folders that were made, and none that was there."""
    made = [folder for folder in (home, *home.parents) if not folder.exists()]
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    home.chmod(0o700)
    if user := _behind_sudo():
        for folder in made:
            os.chown(folder, *user)


def _behind_sudo() -> tuple[int, int] | None:
    uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    return (int(uid), int(gid)) if os.geteuid() == 0 and uid and gid else None


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Have the lab to ourselves while it starts or goes.

    The lock is on the folder itself, so it needs no file that would have to be left behind. Who waited for a
    folder that was removed meanwhile has nothing to wait for.
    """
    try:
        descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _port_of(text: str) -> int:
    if text.isdecimal() and int(text) <= 65535:
        return int(text)
    raise errors.LabError(f"LABKIT_PORT is {text!r}.", "a port is a number from 0 to 65535.", "mend or unset it.")


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise errors.PortInUseError(port) from error


def _tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        return "\n".join("    " + line for line in path.read_text(errors="replace").splitlines()[-8:])
    return ""


def _daemons(paths: LabPaths) -> list[int]:
    """Daemons of this very lab, by their command line: also one whose daemon.json is gone."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if _is_daemon_of(paths, (entry / "cmdline").read_bytes()):
                    found.append(int(entry.name))
    return found


def _is_daemon_of(paths: LabPaths, command: bytes) -> bool:
    words = command.split(b"\0")
    return b"labkit.local.server" in words and str(paths.home).encode() in words


def _stop(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)


def _kill_cgroup(cgroup: Path) -> int:
    """Kill all processes of a cgroup and of those below it; returns how many there were."""
    killed: set[str] = set()
    for _ in range(100):
        pids = {pid for file in cgroup.rglob("cgroup.procs") for pid in _words(file)}
        if not pids:
            break
        killed |= pids
        kill_cgroup(cgroup)
        time.sleep(0.01)
    # A killed process leaves its cgroup at once, but lives on while the kernel takes its namespaces apart.
    deadline = time.monotonic() + _STOP_TIMEOUT
    while any(_alive(pid) for pid in killed) and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(killed)


def _alive(pid: str) -> bool:
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def _words(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text().split()
    return []


def _mounts_under(folder: Path) -> Iterator[str]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        target = line.split()[1].encode().decode("unicode_escape")
        if target == str(folder) or target.startswith(f"{folder}/"):
            yield target
