"""A node's launcher: a small process that forks containers, so that the daemon need not.

It is run as a script with the standard library alone, has one thread, and stays small: a fork of it
costs a millisecond where a fresh interpreter costs twenty. A container's parent is a shim, a fork of
the launcher that writes the container's log and its exit code to files. Shims and containers outlive
the launcher and the daemon; a later daemon finds them by those files.

Requests and answers are JSON in the packets of a Unix socket; see `runtime` for the other side.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import stat
import sys
import termios
import time
from typing import Any, NoReturn

Spec = dict[str, Any]

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWPID = 0x00020000, 0x04000000, 0x08000000, 0x20000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_NAME = 24, 38, 15
_MAX_LINE = 16384  # a longer line is written in parts, as container runtimes do
_libc = ctypes.CDLL(None, use_errno=True)


def main(control: socket.socket) -> None:
    """Serve requests until the daemon is gone."""
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.collect()
    gc.freeze()  # keeps forks from copying what the collector touches
    execs: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
            _reap(control, execs)
        if control.fileno() in ready:
            data, fds, _, _ = socket.recv_fds(control, 1 << 20, 4)
            if not data:
                return
            request = json.loads(data)
            pid = os.fork()
            if pid == 0:
                os.close(wake_read)
                os.close(wake_write)
                _child(control, request, fds)
            if request["op"] == "exec":
                execs[pid] = request["id"]
            for fd in fds:
                os.close(fd)


def _reap(control: socket.socket, execs: dict[int, int]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid in execs:
            _answer(control, {"id": execs.pop(pid), "exit": _exit_code(status)})


def _child(control: socket.socket, request: Spec, fds: list[int]) -> NoReturn:
    """What a fork of the launcher does; it never returns into the launcher's loop."""
    code = 0
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        {"sandbox": _sandbox, "container": _container, "exec": _exec}[request["op"]](control, request, fds)
    except BaseException as error:
        _answer(control, {"id": request["id"], "error": str(error) or repr(error)})
        code = 127
    os._exit(code)


def _answer(control: socket.socket, message: Spec) -> None:
    with contextlib.suppress(OSError):  # the daemon may be gone; what runs goes on
        control.sendall(json.dumps(message).encode())


# A pod's sandbox ------------------------------------------------------------------------------------


def _sandbox(control: socket.socket, spec: Spec, fds: list[int]) -> None:
    """A pause process: it holds a pod's namespaces, and as their first process takes in orphans."""
    os.setsid()
    _join_cgroup(spec["cgroup"])
    _setns_path(spec["netns"])
    _check(_libc.unshare(_CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWPID), "unshare")
    socket.sethostname(spec["hostname"])
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # survives exec: the kernel then reaps orphans itself
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(3, 4096)
        os.execv("/usr/bin/sleep", ["/pause", "infinity"])
    _answer(control, {"id": spec["id"], "pid": pid})


# Containers -----------------------------------------------------------------------------------------


def _container(control: socket.socket, spec: Spec, fds: list[int]) -> None:
    """The shim: start the container, keep its log, and write down how it ended."""
    os.setsid()
    _libc.prctl(_PR_SET_NAME, b"labkit-shim", 0, 0, 0)
    _join_cgroup(os.path.dirname(spec["cgroup"]))
    namespaces = [os.open(f"/proc/{spec['pause']}/ns/{kind}", os.O_RDONLY) for kind in ("net", "uts", "ipc")]
    pid_namespace = os.open(f"/proc/{spec['pause']}/ns/pid", os.O_RDONLY)
    _check(_libc.setns(pid_namespace, _CLONE_NEWPID), "enter the pod's process namespace")
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    failed_read, failed_write = os.pipe2(os.O_CLOEXEC)
    standard_in = os.open(spec["stdin"] or "/dev/null", os.O_RDWR)
    if spec["tty"]:
        master, slave = os.openpty()
    pid = os.fork()
    if pid == 0:
        try:
            _join_cgroup(spec["cgroup"])
            os.setsid()
            if spec["tty"]:
                fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
                standard_in = out_write = err_write = slave
            for source, target in ((standard_in, 0), (out_write, 1), (err_write, 2)):
                os.dup2(source, target)
            for fd in namespaces:
                _check(_libc.setns(fd, 0), "enter the pod's namespaces")
            _make_root(spec)
            _become(spec)
        except BaseException as error:
            os.write(failed_write, str(error).encode()[:4000])
        os._exit(128)
    started = time.time()
    for fd in (out_write, err_write, failed_write, pid_namespace, *namespaces, standard_in):
        os.close(fd)
    sources = {out_read: "stdout", err_read: "stderr"}
    if spec["tty"]:
        os.close(slave)
        sources[master] = "stdout"
    failure = os.read(failed_read, 4096)
    os.close(failed_read)
    if failure:
        os.waitpid(pid, 0)
        raise OSError(failure.decode(errors="replace"))
    _write_json(spec["state"], {"pid": pid, "shim": os.getpid(), "shim_start": start_time(os.getpid()),
                                "started": started})
    _answer(control, {"id": spec["id"], "pid": pid, "shim": os.getpid(), "started": started})
    control.close()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    _keep_log(pid, sources, spec["log"])
    _, status = os.waitpid(pid, 0)
    kill_cgroup(spec["cgroup"])
    _write_json(spec["exit"], {"code": _exit_code(status), "started": started, "finished": time.time(),
                               "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0})


def _keep_log(pid: int, sources: dict[int, str], path: str) -> None:
    """Copy the container's output to its log, line by line, in the format of container runtimes."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    poll = select.poll()
    watched = dict.fromkeys(sources, b"")
    ended = os.pidfd_open(pid)
    poll.register(ended, select.POLLIN)
    for fd in sources:
        poll.register(fd, select.POLLIN)
    alive = True
    while watched:
        events = poll.poll(None if alive else 0)
        if not events and not alive:
            break  # something that the container left behind still holds the pipe: its output ends here
        for fd, _ in events:
            if fd == ended:
                alive = False
                poll.unregister(ended)
                continue
            try:
                data = os.read(fd, 65536)
            except OSError:  # a terminal whose last user left
                data = b""
            rest = watched[fd] + data
            lines = rest.split(b"\n")
            rest = lines.pop()
            now = time.time()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e9):09d}Z "
            head = f"{stamp}{sources[fd]} ".encode()
            text = b"".join(b"%bF %b\n" % (head, line) for line in lines)
            while len(rest) > _MAX_LINE or (rest and not data):
                text += b"%bP %b\n" % (head, rest[:_MAX_LINE])
                rest = rest[_MAX_LINE:]
            if text:
                os.write(log, text)
            watched[fd] = rest
            if not data:
                poll.unregister(fd)
                del watched[fd]


def _exec(control: socket.socket, spec: Spec, fds: list[int]) -> None:
    """Run one more command in a container that runs, with the given standard files."""
    namespaces = [os.open(f"/proc/{spec['pid']}/ns/{kind}", os.O_RDONLY)
                  for kind in ("net", "uts", "ipc", "pid", "mnt")]
    _join_cgroup(spec["cgroup"])
    for fd in namespaces:
        _check(_libc.setns(fd, 0), "enter the container's namespaces")
        os.close(fd)
    failed_read, failed_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            if spec["tty"]:
                fcntl.ioctl(fds[0], termios.TIOCSCTTY, 0)
            for target in (0, 1, 2):
                os.dup2(fds[min(target, len(fds) - 1)], target)
            _become(spec)
        except BaseException as error:
            os.write(failed_write, str(error).encode()[:4000])
        os._exit(126)
    for fd in (*fds, failed_write):
        os.close(fd)
    failure = os.read(failed_read, 4096)
    if failure:
        raise OSError(failure.decode(errors="replace"))
    _answer(control, {"id": spec["id"], "pid": pid})
    _, status = os.waitpid(pid, 0)
    os._exit(_exit_code(status))


# What the inside of a container looks like ----------------------------------------------------------


def _make_root(spec: Spec) -> None:
    """Make the container's files: a small tmpfs of its own, with read-only views of the host's."""
    root = spec["root"]
    _check(_libc.unshare(_CLONE_NEWNS), "unshare mounts")
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NOSUID, "mode=755,size=64m")
    for folder, mode in spec["folders"]:
        os.makedirs(root + folder, exist_ok=True)
        os.chmod(root + folder, mode)
    for link, target in spec["links"]:
        os.makedirs(os.path.dirname(root + link), exist_ok=True)
        os.symlink(target, root + link)
    for path, text, mode in spec["files"]:
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        with open(root + path, "w") as file:
            file.write(text)
        os.chmod(root + path, mode)
    _make_devices(root)
    os.makedirs(root + "/proc", exist_ok=True)
    os.makedirs(root + "/sys", exist_ok=True)
    _mount("proc", root + "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    _mount("sysfs", root + "/sys", "sysfs", _NOSUID | _NODEV | _NOEXEC | (0 if spec["privileged"] else _RDONLY))
    if spec["privileged"]:
        _mount("tmpfs", root + "/sys/fs/cgroup", "tmpfs", _NOSUID, "mode=755")
    else:
        _bind(root + "/proc/sys", root + "/proc/sys", read_only=True)
    for source, target, read_only in spec["mounts"]:
        _bind(source, _inside(root, target), read_only=read_only, like=source)
    os.chdir(root)
    _check(_libc.syscall(_PIVOT_ROOT, b".", b"."), "pivot_root")  # the old root is then on top of the new
    _check(_libc.umount2(b".", _DETACH), "unmount the old root")
    os.chdir("/")


_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine, 41)


def _make_devices(root: str) -> None:
    devices = root + "/dev"
    os.makedirs(devices + "/pts", exist_ok=True)
    os.makedirs(devices + "/shm", exist_ok=True)
    os.chmod(devices + "/shm", 0o1777)
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        _bind("/dev/" + name, f"{devices}/{name}", like="/dev/" + name)
    _mount("devpts", devices + "/pts", "devpts", _NOSUID | _NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    for name, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"),
                         ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")):
        os.symlink(target, f"{devices}/{name}")


def _inside(root: str, path: str) -> str:
    """`path` below `root`, its links followed as they would be inside."""
    done = ""
    parts = [part for part in path.split("/") if part]
    for _ in range(256):
        if not parts:
            return root + done
        part = parts.pop(0)
        here = f"{done}/{part}"
        if os.path.islink(root + here):
            target = os.readlink(root + here)
            if target.startswith("/"):
                done = ""
            parts = [piece for piece in target.split("/") if piece not in ("", ".")] + parts
        elif part == "..":
            done = os.path.dirname(done)
        else:
            done = here
    raise OSError(f"too many links in {path}")


def _bind(source: str, target: str, *, read_only: bool = False, like: str | None = None) -> None:
    if like is not None and not os.path.lexists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if stat.S_ISDIR(os.stat(like).st_mode):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(source, target, None, _BIND)
    if read_only:
        _mount(None, target, None, _BIND | _REMOUNT | _RDONLY)


def _become(spec: Spec) -> NoReturn:
    """Give up what a container must not have, and run its command."""
    keep = spec["capabilities"]
    if keep is not None:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            last = int(file.read())
        for capability in range(last + 1):
            if capability not in keep:
                _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        os.chdir(spec["cwd"])
    except FileNotFoundError:
        os.makedirs(spec["cwd"])
        os.chdir(spec["cwd"])
    if spec["gid"] or spec["uid"]:
        os.setgroups(spec["groups"])
        os.setgid(spec["gid"])
        os.setuid(spec["uid"])
    if spec["no_new_privileges"]:
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores these, and exec would keep that
    os.umask(0o022)
    try:
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except FileNotFoundError:
        raise OSError(f'exec: "{spec["argv"][0]}": executable file not found in $PATH') from None
    except PermissionError:
        raise OSError(f'exec: "{spec["argv"][0]}": permission denied') from None


# Small helpers --------------------------------------------------------------------------------------


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot: with its number, that names it for good."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19])


def kill_cgroup(folder: str) -> None:
    """Kill every process of a cgroup and of those below it."""
    try:
        with open(folder + "/cgroup.kill", "w") as file:
            file.write("1")
        return
    except OSError:
        pass  # before Linux 5.14, or gone already
    for path, _, _ in os.walk(folder):
        try:
            with open(path + "/cgroup.procs") as file:
                pids = [int(line) for line in file]
        except OSError:
            continue
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _join_cgroup(folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    with open(folder + "/cgroup.procs", "w") as file:
        file.write("0")


def _setns_path(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    _check(_libc.setns(fd, 0), f"enter {path}")
    os.close(fd)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind, data)]
    result = _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    _check(result, f"mount {source or ''} on {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _exit_code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _write_json(path: str, value: Spec) -> None:
    temporary = path + ".new"
    with open(temporary, "w") as file:
        json.dump(value, file)
    os.rename(temporary, path)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the daemon
    main(socket.socket(fileno=int(sys.argv[1])))
