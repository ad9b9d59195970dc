"""The launcher's loop: one fork for each request."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
from typing import NoReturn

from labkit.local.launcher.container import answer, container, exec_in, sandbox
from labkit.local.launcher.kernel import Spec, exit_code


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
            try:
                data, fds, _, _ = socket.recv_fds(control, 1 << 20, 4)
            except ConnectionResetError:  # the daemon was killed before it read an answer
                return
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
            answer(control, {"id": execs.pop(pid), "exit": exit_code(status)})


def _child(control: socket.socket, request: Spec, fds: list[int]) -> NoReturn:
    """What a fork of the launcher does; it never returns into the launcher's loop."""
    code = 0
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        {"sandbox": sandbox, "container": container, "exec": exec_in}[request["op"]](control, request, fds)
    except BaseException as error:
        answer(control, {"id": request["id"], "error": str(error) or repr(error)})
        code = 127
    os._exit(code)
