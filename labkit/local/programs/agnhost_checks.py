"""agnhost's commands by which Kubernetes' own tests look at volumes, logs and probes."""

from __future__ import annotations

import argparse
import json
import os
import random
import stat
import subprocess
import sys
import time
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from labkit.local.programs import netexec
from labkit.local.programs.netexec import QuietServer, TextHandler

_NEW = "mount-tester new file\n"
_ALIVE = 10             # seconds


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The commands and their options."""
    one = commands.add_parser("mounttest", help="say what a volume's files are like")
    for option in ("fs_type", *(f"new_file_{mode}" for mode in ("0644", "0666", "0660", "0777")), "file_mode",
                   "file_perm", "file_owner", "file_content", "file_content_in_loop"):
        one.add_argument(f"--{option}", default="", metavar="PATH")
    one.add_argument("--retry_time", type=int, default=180)
    one.add_argument("--break_on_expected_content", default="true")
    one.set_defaults(run=mounttest)
    one = commands.add_parser("logs-generator", help="lines of log, evenly over some time")
    one.add_argument("-t", "--log-lines-total", type=int, required=True)
    one.add_argument("-d", "--run-duration", type=netexec.seconds, required=True)
    one.set_defaults(run=logs_generator)
    commands.add_parser("liveness", help="server that is well for ten seconds").set_defaults(run=liveness)


def mounttest(options: argparse.Namespace) -> None:
    """Ask what the options ask, in agnhost's order; it fails if one of them cannot be answered."""
    os.umask(0)
    failed = False
    steps = {"fs_type": _fs_type, **{name: _new_file for name in vars(options) if name.startswith("new_file_")},
             "file_mode": _mode, "file_perm": _perm, "file_owner": _owner, "file_content": _content}
    for name, step in steps.items():
        if path := getattr(options, name):
            try:
                step(path, int(name.rpartition("_")[2], 8) if step is _new_file else 0)
            except OSError as error:
                print(f"error of {name} for {json.dumps(path)}: {error.strerror}", flush=True)
                failed = True
    if options.file_content_in_loop:
        failed |= not _loop(options.file_content_in_loop, options.retry_time,
                            until_new=options.break_on_expected_content == "true")
    sys.exit(failed)


def _fs_type(path: str, _: int) -> None:
    kind = subprocess.run(["stat", "-f", "-c", "%T", path], check=False, capture_output=True, text=True).stdout.strip()
    print(f"mount type of {json.dumps(path)}: {kind}", flush=True)


def _new_file(path: str, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(_NEW)
    _content(path, 0)


def _mode(path: str, _: int) -> None:
    mode = os.stat(path).st_mode
    letters = "d" * stat.S_ISDIR(mode) + "g" * bool(mode & stat.S_ISGID) + "t" * bool(mode & stat.S_ISVTX) or "-"
    print(f"mode of file {json.dumps(path)}: {letters}{stat.filemode(mode & 0o777)[1:]}", flush=True)     # as Go does


def _perm(path: str, _: int) -> None:
    print(f"perms of file {json.dumps(path)}: -{stat.filemode(os.stat(path).st_mode & 0o777)[1:]}", flush=True)


def _owner(path: str, _: int) -> None:
    found = os.stat(path)
    for end, number in (("UID", found.st_uid), ("GID", found.st_gid)):
        print(f"owner {end} of {json.dumps(path)}: {number}", flush=True)


def _content(path: str, _: int) -> None:
    print(f"content of file {json.dumps(path)}: {Path(path).read_text()}", flush=True)


def _loop(path: str, limit: int, *, until_new: bool) -> bool:
    end, was_read = time.monotonic() + limit, False
    while time.monotonic() < end:
        try:
            _content(path, 0)
            was_read = True
            if until_new and Path(path).read_text() == _NEW:
                break
        except OSError as error:
            was_read = False
            print(f"Error reading file {path}: {error.strerror}, retrying", flush=True)
        time.sleep(2)
    return was_read


def logs_generator(options: argparse.Namespace) -> None:
    """Lines as of an API server's log."""
    for number in range(options.log_lines_total):
        now = time.time()
        stamp = time.strftime("%m%d %H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06}"
        pod = "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=4))
        print(f"I{stamp} {os.getpid():7} logs_generator.go:76] {number} {random.choice(('GET', 'POST', 'PUT'))} "
              f"/api/v1/namespaces/{random.choice(('kube-system', 'default', 'ns'))}/pods/{pod} "
              f"{random.randrange(200, 600)}", flush=True)
        time.sleep(options.run_duration / options.log_lines_total)


def liveness(_: argparse.Namespace) -> None:
    """Answer /healthz well for ten seconds, then with an error."""
    began = time.monotonic()

    class Handler(TextHandler):
        def do_GET(self) -> None:  # noqa: N802
            lived, asked = time.monotonic() - began, urlsplit(self.path)
            if asked.path == "/redirect":
                self.send_text(HTTPStatus.FOUND, "", Location=parse_qs(asked.query).get("loc", [""])[0])
            elif asked.path == "/healthz" and lived > _ALIVE:
                self.send_text(HTTPStatus.INTERNAL_SERVER_ERROR, f"error: {lived}")
            else:
                self.send_text(HTTPStatus.OK, "ok" if asked.path == "/healthz" else f"{lived}s")

    QuietServer(("", 8080), Handler).serve_forever()
