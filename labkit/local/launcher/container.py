"""What a fork of the launcher becomes: a pod's pause process, a container's shim, or one more command."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Callable

from labkit.local.launcher.kernel import (
    CLONE_NEWIPC,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    Spec,
    check,
    exit_code,
    join_cgroup,
    kill_cgroup,
    libc,
    setns_path,
    start_time,
    write_json,
)
from labkit.local.launcher.rootfs import become, make_root

_PR_SET_NAME = 15
_TIOCSPTLCK, _TIOCGPTN = 0x40045431, 0x80045430  # everywhere but on alpha, mips, powerpc and sparc
_MAX_LINE = 16384  # a longer line is written in parts, as container runtimes do


def answer(control: socket.socket, message: Spec, fds: tuple[int, ...] = ()) -> None:
    """Tell the daemon, and give it descriptors."""
    with contextlib.suppress(OSError):  # the daemon may be gone; what runs goes on
        socket.send_fds(control, [json.dumps(message).encode()], fds)


def open_terminal(owner: int) -> tuple[int, int]:
    """A terminal of the container that this process is in: our end, and the one that its command gets.

    It is one of the container's own /dev/pts, so that `tty` and who opens /dev/tty find it.
    """
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, struct.pack("i", 0)))[0]
    slave = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY)
    os.fchown(slave, owner, -1)
    return master, slave


def sandbox(control: socket.socket, spec: Spec, fds: list[int]) -> None:
    """A pause process: it holds a pod's namespaces, and as their first process takes in orphans."""
    os.setsid()
    join_cgroup(spec["cgroup"])
    setns_path(spec["netns"])
    check(libc.unshare(CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID), "unshare")
    socket.sethostname(spec["hostname"])
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # survives exec: the kernel then reaps orphans itself
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(3, 4096)
        os.execv("/usr/bin/sleep", ["/pause", "infinity"])
    answer(control, {"id": spec["id"], "pid": pid})


def start(run: Callable[[], None], otherwise: int) -> int:
    """Fork a process that becomes a command.

    Args:
        run: makes it one; in the new process.
        otherwise: the new process's exit code, where `run` fails.

    Raises:
        OSError: it failed.
    """
    failed_read, failed_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            run()
        except BaseException as error:
            os.write(failed_write, str(error).encode()[:4000])
        os._exit(otherwise)
    os.close(failed_write)
    with open(failed_read, "rb") as failed:
        failure = failed.read()
    if failure:
        os.waitpid(pid, 0)
        raise OSError(failure.decode(errors="replace"))
    return pid


def container(control: socket.socket, spec: Spec, fds: list[int]) -> None:
    """The shim: start the container, keep its log, and write down how it ended."""
    os.setsid()
    libc.prctl(_PR_SET_NAME, b"labkit-shim", 0, 0, 0)
    join_cgroup(os.path.dirname(spec["cgroup"]))
    namespaces = [os.open(f"/proc/{spec['pause']}/ns/{kind}", os.O_RDONLY) for kind in ("net", "uts", "ipc")]
    pid_namespace = os.open(f"/proc/{spec['pause']}/ns/pid", os.O_RDONLY)
    check(libc.setns(pid_namespace, CLONE_NEWPID), "enter the pod's process namespace")
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    standard_in = os.open(spec["stdin"] or "/dev/null", os.O_RDWR)
    ours, theirs = socket.socketpair()

    def run() -> None:
        join_cgroup(spec["cgroup"])
        os.setsid()
        for fd in namespaces:
            check(libc.setns(fd, 0), "enter the pod's namespaces")
        make_root(spec)
        standard = (standard_in, out_write, err_write)
        if spec["tty"]:
            master, slave = open_terminal(spec["uid"])
            socket.send_fds(theirs, [b"terminal"], [master])
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            standard = (slave, slave, slave)
        for target, source in enumerate(standard):
            os.dup2(source, target)
        become(spec)

    started = time.time()
    pid = start(run, 128)
    for fd in (out_write, err_write, pid_namespace, *namespaces, standard_in):
        os.close(fd)
    theirs.close()
    sources = {out_read: "stdout", err_read: "stderr"}
    if spec["tty"]:
        sources[socket.recv_fds(ours, 16, 1)[1][0]] = "stdout"
    ours.close()
    write_json(spec["state"], {"pid": pid, "shim": os.getpid(), "shim_start": start_time(os.getpid()),
                                "started": started})
    answer(control, {"id": spec["id"], "pid": pid, "shim": os.getpid(), "started": started})
    control.close()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    keep_log(pid, sources, spec["log"])
    _, status = os.waitpid(pid, 0)
    kill_cgroup(spec["cgroup"])
    write_json(spec["exit"], {"code": exit_code(status), "started": started, "finished": time.time(),
                               "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0})


def keep_log(pid: int, sources: dict[int, str], path: str) -> None:
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


def exec_in(control: socket.socket, spec: Spec, fds: list[int]) -> None:
    """Run one more command in a container that runs, with the given standard files, or with a terminal there."""
    namespaces = [os.open(f"/proc/{spec['pid']}/ns/{kind}", os.O_RDONLY)
                  for kind in ("net", "uts", "ipc", "pid", "mnt")]
    join_cgroup(spec["cgroup"])
    for fd in namespaces:
        check(libc.setns(fd, 0), "enter the container's namespaces")
        os.close(fd)
    kept: tuple[int, ...] = ()
    if spec["tty"]:
        master, slave = open_terminal(spec["uid"])
        kept, fds = (master,), [slave]

    def run() -> None:
        os.setsid()
        if spec["tty"]:
            fcntl.ioctl(fds[0], termios.TIOCSCTTY, 0)
        for target in (0, 1, 2):
            os.dup2(fds[min(target, len(fds) - 1)], target)
        become(spec)

    pid = start(run, 126)
    for fd in fds:
        os.close(fd)
    answer(control, {"id": spec["id"], "pid": pid}, kept)
    for fd in kept:
        os.close(fd)
    _, status = os.waitpid(pid, 0)
    os._exit(exit_code(status))
