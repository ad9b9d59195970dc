"""What a container's inside looks like, as data for the launcher. Pure, but for a look at this machine.

A container's root is a small tmpfs: read-only views of the machine's programs, an /etc with what
programs need to run and nothing that is the machine's own affair, its own /proc, /sys and /dev, the
image's commands, and its volumes. It is writable, and gone with the container.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from labkit.local.client import Obj
from labkit.local.node.catalogue import APPLETS, Image

_PACKAGE = Path(__file__).resolve().parents[2]
ETC = (  # never shadow, ssh, private keys, or anything with a secret
    "alternatives", "ca-certificates", "crypto-policies", "debian_version", "ethertypes", "gai.conf", "group",
    "host.conf", "inputrc", "iproute2", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "libnl-3", "localtime",
    "mime.types", "netconfig", "nsswitch.conf", "os-release", "passwd", "pki/ca-trust/extracted", "pki/tls/cert.pem",
    "pki/tls/certs", "profile", "protocols", "rpc", "services", "ssl/certs", "ssl/openssl.cnf", "terminfo",
    "timezone", "xattr.conf", "xtables",
)
_FOLDERS = (("/run", 0o755), ("/tmp", 0o1777), ("/root", 0o700), ("/home", 0o755), ("/mnt", 0o755),
            ("/etc", 0o755), ("/opt", 0o755), ("/var/tmp", 0o1777), ("/var/log", 0o755), ("/var/lib", 0o755),
            ("/var/cache", 0o755), (APPLETS, 0o755))
_CAPABILITIES = {  # linux/capability.h
    "CHOWN": 0, "DAC_OVERRIDE": 1, "DAC_READ_SEARCH": 2, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6,
    "SETUID": 7, "SETPCAP": 8, "LINUX_IMMUTABLE": 9, "NET_BIND_SERVICE": 10, "NET_BROADCAST": 11,
    "NET_ADMIN": 12, "NET_RAW": 13, "IPC_LOCK": 14, "IPC_OWNER": 15, "SYS_MODULE": 16, "SYS_RAWIO": 17,
    "SYS_CHROOT": 18, "SYS_PTRACE": 19, "SYS_PACCT": 20, "SYS_ADMIN": 21, "SYS_BOOT": 22, "SYS_NICE": 23,
    "SYS_RESOURCE": 24, "SYS_TIME": 25, "SYS_TTY_CONFIG": 26, "MKNOD": 27, "LEASE": 28, "AUDIT_WRITE": 29,
    "AUDIT_CONTROL": 30, "SETFCAP": 31, "MAC_OVERRIDE": 32, "MAC_ADMIN": 33, "SYSLOG": 34, "WAKE_ALARM": 35,
    "BLOCK_SUSPEND": 36, "AUDIT_READ": 37, "PERFMON": 38, "BPF": 39, "CHECKPOINT_RESTORE": 40,
}
_DEFAULT_CAPABILITIES = frozenset((  # containerd's
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE",
    "NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP",
))


@dataclass(frozen=True)
class Mount:
    """A path of the host that a container sees."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Identity:
    """Whom a container runs as; `capabilities` None is all of them."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    capabilities: tuple[int, ...] | None = None
    privileged: bool = False
    no_new_privileges: bool = False


def identity(pod: Obj, container: Obj) -> Identity:
    """Whom a container runs as, by its security context and its pod's."""
    of_pod = pod["spec"].get("securityContext") or {}
    own = container.get("securityContext") or {}
    privileged = bool(own.get("privileged"))
    changes = own.get("capabilities") or {}
    names = set(_DEFAULT_CAPABILITIES)
    drop, add = ({name.upper().removeprefix("CAP_") for name in changes.get(key) or ()} for key in ("drop", "add"))
    names = (set() if "ALL" in drop else names - drop) | (set(_CAPABILITIES) if "ALL" in add else add)
    uid = own.get("runAsUser", of_pod.get("runAsUser", 0))
    return Identity(
        uid=uid, gid=own.get("runAsGroup", of_pod.get("runAsGroup", 0)),
        groups=tuple(of_pod.get("supplementalGroups") or ()) + ((of_pod["fsGroup"],) if "fsGroup" in of_pod else ()),
        capabilities=None if privileged else tuple(sorted(_CAPABILITIES[n] for n in names if n in _CAPABILITIES)),
        privileged=privileged, no_new_privileges=own.get("allowPrivilegeEscalation") is False and not privileged,
    )


def process(argv: Sequence[str], env: Mapping[str, str], cwd: str, who: Identity) -> dict[str, Any]:
    """The launcher's words for what to run, and as whom."""
    return {
        "argv": list(argv), "env": dict(env), "cwd": cwd, "uid": who.uid, "gid": who.gid,
        "groups": list(who.groups), "no_new_privileges": who.no_new_privileges,
        "capabilities": None if who.capabilities is None else list(who.capabilities),
    }


def root(image: Image, who: Identity, mounts: Sequence[Mount], etc: Mapping[str, str],
         mountpoint: Path, again: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """The launcher's words for a container's files.

    Args:
        image: whose commands are in it.
        who: a privileged container may write to /sys.
        mounts: its volumes; parents come before what is below them.
        etc: texts of files in /etc, such as resolv.conf.
        mountpoint: an empty folder of the host; the mount on it is seen by the container alone.
        again: paths in the container, and the places where they are seen once more.
    """
    base = _base()
    views = [*base.views, *sorted(mounts, key=lambda mount: mount.target.count("/"))]
    links = [*base.links, *((f"{APPLETS}/{name}", base.busybox) for name in base.applets)]
    links += [(f"/{name}", path) for path, _ in image.scripts() if (name := path.rsplit("/", 1)[1]) not in base.top]
    files = [(f"/etc/{name}", text, 0o644) for name, text in etc.items()]
    files += [(path, text, 0o755) for path, text in image.scripts()]
    return {
        "root": str(mountpoint), "privileged": who.privileged, "folders": _FOLDERS, "links": links, "files": files,
        "mounts": [(mount.source, mount.target, mount.read_only) for mount in views],
        "again": list(again),
    }


@dataclass(frozen=True)
class _Base:
    """The part of a root that is the same for every container on this machine."""

    views: tuple[Mount, ...]
    links: tuple[tuple[str, str], ...]
    top: frozenset[str]
    busybox: str
    applets: tuple[str, ...]


@cache
def _base() -> _Base:
    views, links = [Mount("/usr", "/usr", True)], [("/var/run", "/run")]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            links.append((f"/{name}", os.readlink(path)))
        elif path.is_dir():
            views.append(Mount(str(path), str(path), True))
    # Each by itself: root in a container could read all that is below a mount, also what nothing links to.
    shown = [name for name in ETC if Path("/etc", name).exists()]
    views += [Mount(f"/etc/{name}", f"/.labkit/etc/{name}", True) for name in shown]
    links += [(f"/etc/{name}", f"/.labkit/etc/{name}") for name in shown]
    interpreter = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent), str(_PACKAGE)}
    views += [Mount(path, path, True) for path in sorted(interpreter) if not Path(path).is_relative_to("/usr")]
    views += [Mount(path, path, True) for path in _mounts_below("/usr")]
    busybox = next((path for path in ("/usr/bin/busybox", "/bin/busybox", "/usr/sbin/busybox")
                    if os.path.exists(path)), "")
    applets: tuple[str, ...] = ()
    if busybox:
        listing = subprocess.run([busybox, "--list"], capture_output=True, text=True, timeout=10)
        applets = tuple(listing.stdout.split())
    return _Base(tuple(views), tuple(links), frozenset(("bin", "sbin", "lib")), busybox, applets)


def _mounts_below(folder: str) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(folder + "/")]


def node_view(at: str) -> tuple[list[Mount], list[tuple[str, str]]]:
    """What a container sees at `at` besides, where it mounts the whole disk of its node.

    A node's disk is an empty folder of the lab's: the machine's programs and the harmless part of its /etc appear
    there as they do in every container, and the container's own /proc, /sys and /dev. So `chroot` finds a system.

    Returns:
        Read-only mounts, and (path in the container, the place where it is seen again).
    """
    base = _base()
    mounts = [Mount(view.source, at + view.target, True) for view in base.views
              if view.target.split("/")[1] in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", ".labkit")]
    return mounts, [(path, at + path) for path in ("/proc", "/sys", "/dev")]


def node_links() -> dict[str, str]:
    """The links that lead to it on the node's disk, which lead nowhere else."""
    return {path.lstrip("/"): os.path.relpath(target if target.startswith("/") else f"/{target}", os.path.dirname(path))
            for path, target in _base().links if path != "/var/run"}


def package_environment() -> dict[str, str]:
    """What our own programs need to find our package, wherever it is installed."""
    return {"PYTHONPATH": str(_PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1"}
