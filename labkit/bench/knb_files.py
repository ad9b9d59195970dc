"""knb's two files: `.knbdata`, the tar of its working folder, and its JSON. Both are written and read."""

from __future__ import annotations

import io
import json
import re
import shlex
import tarfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.bench.knb import CPU, TESTS, End, Report, Test, from_run, number, to_run
from labkit.bench.results import Run
from labkit.errors import ResultsError

_PODS = {"idle": ("IDLE", "idle"), "p2ptcp": ("CLIENT_TCP_P2P", "tcp-p2p"), "p2pudp": ("CLIENT_UDP_P2P", "udp-p2p"),
         "p2stcp": ("CLIENT_TCP_P2S", "tcp-p2s"), "p2sudp": ("CLIENT_UDP_P2S", "udp-p2s")}
_KEYS = {"idle": ("idle",), "p2ptcp": ("pod2pod", "tcp"), "p2pudp": ("pod2pod", "udp"), "p2stcp": ("pod2svc", "tcp"),
         "p2sudp": ("pod2svc", "udp")}
_AVERAGES = "cpu-user cpu-nice cpu-system cpu-iowait cpu-steal memory-used"
_FACTS = {"cpu": "cpu", "kernel": "kernel", "k8s-version": "k8s_version", "mtu": "mtu"}
_METADATA = {"name": "name", "generator": "generator", "version": "version", "date": "date",
             "server-node": "server_node", "client-node": "client_node", "socket-buffer-size": "socket_buffer_size"}
_ENV = {"BENCHMARK_RUN_NAME": "name", "GENERATOR": "generator", "VERSION": "version", "BENCHMARK_DATE": "date",
        "SERVER_NODE": "server_node", "CLIENT_NODE": "client_node", "SOCKET_BUFFER_SIZE": "socket_buffer_size"}
_LARGEST = 4 * 2**20  # of one file in the tar; knb's own are a few kB
_MONITORS = {"MONITOR_SERVER": "knb-monitor-server", "MONITOR_CLIENT": "knb-monitor-client", "SERVER": "knb-server"}


def write(run: Run, path: str | Path, arm: str | None = None) -> Path:
    """Write one arm of a run as a file of knb's; folders are made.

    Args:
        run: with knb's tests in it.
        path: ".json" for knb's JSON; anything else is written as `.knbdata`, for `knb -fd`.
        arm: which; None where there is only one.

    Raises:
        ResultsError: the run does not have what knb's file needs.
    """
    target, report = Path(path), from_run(run, arm)
    data = to_json(report).encode() if target.suffix == ".json" else to_data(report)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target


def read(path: str | Path, arm: str | None = None) -> Run:
    """Read a file of knb's, `.knbdata` or JSON, or the folder that `knb -k` keeps, as a run of one round.

    Args:
        path: the file.
        arm: how to call it in comparisons; None means the name that it has in the file.

    Raises:
        ResultsError: it is neither, or a test in it has no figures.
    """
    source = Path(path)
    try:
        if source.is_dir():
            files = {p.name: p.read_text(errors="replace") for p in source.iterdir() if p.is_file()}
            return to_run(_report(files, str(source)), arm)
        data = source.read_bytes()
    except OSError as error:
        raise ResultsError(f"{source} cannot be read.", error.strerror or str(error)) from error
    return to_run(parse(data, str(source)), arm)


def recognised(data: bytes) -> bool:
    """Whether bytes look like a file of knb's, rather than a document of ours."""
    return data[:2] == b"\x1f\x8b" or b'"generator": "knb"' in data[:2000]


def parse(data: bytes, name: str) -> Report:
    """Read the bytes of a `.knbdata` or of knb's JSON.

    Args:
        data: the file.
        name: how to call it in errors.

    Raises:
        ResultsError: it is neither, or not complete.
    """
    if data[:2] == b"\x1f\x8b":
        return _report(_unpack(data, name), name)
    try:
        text = data.decode()
        if empty := re.search(r'"(\w+)": *[,\n]', text):  # knb's own text, where a figure is missing
            number("", f"A {empty[1]} in it")
        # knb writes a comma too much where idle is the last test
        return _from_json(json.loads(re.sub(r",(\s*})", r"\1", text)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{name} is not a file of knb's.", str(error) or type(error).__name__,
                           "give what `knb -o data -f FILE` or `knb -o json -f FILE` has written.") from error


def to_json(report: Report) -> str:
    """The JSON of knb."""
    data: dict[str, Any] = {name: getattr(report, ours) for name, ours in _FACTS.items()}
    for name, test in report.tests.items():
        place = data
        for key in _KEYS[name][:-1]:
            place = place.setdefault(key, {})
        place[_KEYS[name][-1]] = {"bandwidth": float(_mbit(test.bandwidth)), "client": _end(test.client),
                                  "server": _end(test.server)}
    metadata = {name: getattr(report, ours) for name, ours in _METADATA.items()}
    return json.dumps({"metadata": metadata, "data": data}, indent=2) + "\n"


def to_data(report: Report) -> bytes:
    """The `.knbdata` of knb: a tar of its working folder, as knb 1.5.0 lays it out.

    A `.metrics` file has one line, of the whole window, because that is how labkit measures.
    """
    env = {key: str(getattr(report, ours)) for key, ours in _ENV.items()}
    env |= {f"{key}_POD_NAME": f"{pod}-labkit" for key, pod in _MONITORS.items()}
    env |= {f"{key}_POD_NAME": f"knb-client-{pod}-labkit" if name in report.tests else ""
            for name, (key, pod) in _PODS.items()}
    files = {"env": "".join(f"{key}={shlex.quote(value)}\n" for key, value in env.items())}
    files |= {name: f"{getattr(report, ours)}\n" for name, ours in _FACTS.items()}
    for name, test in report.tests.items():
        pod = env[f"{_PODS[name][0]}_POD_NAME"]
        second = int(datetime.fromisoformat(test.at or f"{report.date}+00:00").timestamp())
        files[f"{pod}.log"] = test.log or f"measured by labkit: {_mbit(test.bandwidth)} Mbit/s at the other end\n"
        files[f"{pod}.bw"] = f"{_mbit(test.bandwidth)}\n"
        for side, end in (("client", test.client), ("server", test.server)):
            figures = " ".join(f"{end.cpu[part]:.2f}" for part in CPU) + f" {end.ram:.0f}"
            files[f"{pod}-{side}.metrics"] = f"{_AVERAGES} timestamp\n{figures} {second}\n"
            files[f"{pod}-{side}.avg"] = f"{_AVERAGES} records-number\n{figures} 1\n"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(f"./{path}")
            member.size, member.mtime = len(text.encode()), int(datetime.now(UTC).timestamp())
            tar.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def _end(end: End) -> dict[str, Any]:
    return {"cpu": {"total": round(end.total, 2), **{part: round(end.cpu[part], 2) for part in CPU}},
            "ram": round(end.ram)}


def _mbit(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _unpack(data: bytes, name: str) -> dict[str, str]:
    """The files of a tar, in memory: nothing of it is written anywhere, and its `env` is never run."""
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            for member in tar:
                if member.size > _LARGEST:
                    raise ResultsError(f"{name} is not a file of knb's.", f"{member.name} in it is of {member.size} B")
                if member.isfile() and (file := tar.extractfile(member)):
                    files[member.name.rsplit("/", 1)[-1]] = file.read().decode(errors="replace")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise ResultsError(f"{name} cannot be unpacked.", f"it is cut off or damaged: {error}",
                           "copy it again, or let knb write it again: `knb … -o data -f FILE`.") from error
    return files


def _report(files: Mapping[str, str], name: str) -> Report:
    if "env" not in files:
        raise ResultsError(f"{name} is not a file of knb's.", "there is no `env` in it",
                           "give what `knb -o data -f FILE` has written.")
    env = dict(word.split("=", 1) for line in files["env"].splitlines() for word in _words(line) if "=" in word)

    def content(file: str) -> str:
        if file not in files:
            raise ResultsError(f"{name} is incomplete: {file} is missing.", "knb was interrupted", "run knb again.")
        return files[file]

    def end(pod: str, side: str) -> End:
        file = f"{pod}-{side}.avg"
        figures = [number(word, f"{file}") for word in (content(file).splitlines() or [""])[-1].split()]
        if len(figures) < 6:
            raise ResultsError(f"{file} in {name} has no figures.", "knb's monitor was not ready", "run knb again.")
        return End(dict(zip(CPU, figures, strict=False)), figures[5])

    tests = {}
    for test in TESTS:
        if pod := env.get(f"{_PODS[test][0]}_POD_NAME", ""):
            lines = files.get(f"{pod}-client.metrics", "").split("\n")
            seconds = [words[6] for line in lines if len(words := line.split()) == 7 and words[6].isdigit()]
            at = datetime.fromtimestamp(int(seconds[-1]), UTC).isoformat(timespec="milliseconds") if seconds else ""
            tests[test] = Test(number(content(f"{pod}.bw").strip(), f"The bandwidth of {test}"),
                               end(pod, "client"), end(pod, "server"), at, files.get(f"{pod}.log", ""))
    return Report(tests=tests, **{ours: env.get(key, "") for key, ours in _ENV.items()},
                  **{ours: files.get(key, "").strip() for key, ours in _FACTS.items()})


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def _from_json(document: dict[str, Any]) -> Report:
    metadata, data = document["metadata"], document["data"]

    def end(name: str, side: dict[str, Any]) -> End:
        return End({part: number(side["cpu"][part], f"The {part} time of {name}") for part in CPU},
                   number(side["ram"], f"The memory of {name}"))

    tests = {}
    for name, keys in _KEYS.items():
        found: Any = data
        for key in keys:
            found = found.get(key, {})
        if found:
            tests[name] = Test(number(found["bandwidth"], f"The bandwidth of {name}"), end(name, found["client"]),
                               end(name, found["server"]))
    return Report(tests=tests, **{ours: str(metadata.get(key, "")) for key, ours in _METADATA.items()},
                  **{ours: str(data.get(key, "")) for key, ours in _FACTS.items()})
