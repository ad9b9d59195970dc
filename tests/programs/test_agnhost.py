"""agnhost's commands, by real sockets: the answers that manifests and Kubernetes' own tests rely on."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ports import free_port


@contextmanager
def agnhost(*words: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running command of agnhost."""
    process = subprocess.Popen([sys.executable, "-m", "labkit.local.programs.agnhost", *words],
                               env={"PYTHONUNBUFFERED": "1", **env}, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def get(port: int, path: str) -> tuple[int, str]:
    """Status and text of a GET, asked until the server is there."""
    for _ in range(1200):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            time.sleep(0.05)
    raise AssertionError("it does not answer")


@pytest.fixture(scope="module")
def netexec() -> Iterator[tuple[int, int]]:
    """Its HTTP and its UDP port."""
    ports = free_port(), free_port()
    with agnhost("netexec", f"--http-port={ports[0]}", f"--udp-port={ports[1]}"):
        get(ports[0], "/healthz")
        yield ports


@pytest.mark.parametrize(("query", "answers"), [
    ("port={http}&request=echo%3Fmsg%3Da&tries=2", {"responses": ["a", "a"]}),
    ("port={udp}&request=echo%20b&protocol=udp", {"responses": ["b"]}),
])
def test_dial_tells_what_another_server_answered(netexec: tuple[int, int], query: str, answers: object) -> None:
    status, text = get(netexec[0], f"/dial?host=127.0.0.1&{query.format(http=netexec[0], udp=netexec[1])}")
    assert (status, json.loads(text)) == (200, answers)


def test_dial_tells_what_went_wrong_and_no_answer_it_did_not_get(netexec: tuple[int, int]) -> None:
    _, text = get(netexec[0], f"/dial?host=127.0.0.1&port={free_port()}&request=hostname")
    said = json.loads(text)
    assert list(said) == ["errors"]
    assert "refused" in said["errors"][0]


@pytest.mark.parametrize("query", ["host=127.0.0.1&port=1", "host=127.0.0.1&port=x&request=a",
                                   "host=127.0.0.1&port=1&request=a&protocol=carrier-pigeon"])
def test_dial_refuses_what_it_cannot_ask(netexec: tuple[int, int], query: str) -> None:
    assert get(netexec[0], f"/dial?{query}")[0] == 400


def test_echo_answers_with_the_code_it_is_told(netexec: tuple[int, int]) -> None:
    assert get(netexec[0], "/echo?msg=a&code=503") == (503, "a")
    assert get(netexec[0], "/redirect?location=/echo%3Fmsg%3Dmoved&code=307") == (200, "moved")


def test_exit_leaves_with_its_code_after_the_open_answer() -> None:
    port = free_port()
    with agnhost("netexec", f"--http-port={port}", "--udp-port=-1") as process:
        get(port, "/healthz")
        assert get(port, "/exit?code=3&timeout=300ms") == (200, "")
        assert process.wait(timeout=60) == 3


def test_porter_serves_what_the_environment_names() -> None:
    ports = free_port(), free_port()
    with agnhost("porter", **{f"SERVE_PORT_{ports[0]}": "one", f"SERVE_PORT_{ports[1]}": "two"}):
        assert [get(port, "/any")[1] for port in ports] == ["one", "two"]


def test_serve_hostname_answers_by_tcp_and_udp() -> None:
    port = free_port()
    with agnhost("serve-hostname", "--http=false", "--tcp", "--udp", f"--port={port}"):
        for _ in range(1200):
            try:
                with socket.create_connection(("127.0.0.1", port), 60) as tcp:
                    assert tcp.recv(100).decode() == socket.gethostname()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(60)
            udp.sendto(b"?", ("127.0.0.1", port))
            assert udp.recv(100).decode() == socket.gethostname()


def test_webserver_serves_files() -> None:
    port = free_port()
    with agnhost("test-webserver", f"--port={port}"):
        assert get(port, __file__) == (200, Path(__file__).read_text())
        assert get(port, "/no/such/file")[0] == 404


@pytest.mark.parametrize(("address", "word"), [
    ("127.0.0.1:{closed}", "REFUSED"), ("no.such.name.invalid:80", "DNS"), ("127.0.0.1", "UNKNOWN"),
])
def test_connect_names_what_went_wrong(address: str, word: str) -> None:
    done = subprocess.run([sys.executable, "-m", "labkit.local.programs.agnhost", "connect", "--timeout=1s",
                           address.format(closed=free_port())], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(word)


def test_mounttest_says_what_a_volumes_files_are_like(tmp_path: Path) -> None:
    def ask(*options: str) -> tuple[list[str], int]:
        done = subprocess.run([sys.executable, "-m", "labkit.local.programs.agnhost", "mounttest", *options],
                              capture_output=True, text=True, check=False)
        return done.stdout.splitlines(), done.returncode

    new = tmp_path / "new"
    tmp_path.chmod(0o3777)
    assert ask("--fs_type=/dev/shm", f"--file_mode={tmp_path}", f"--new_file_0660={new}", f"--file_perm={new}") == ([
        'mount type of "/dev/shm": tmpfs', f'content of file "{new}": mount-tester new file', "",
        f'mode of file "{tmp_path}": dgtrwxrwxrwx', f'perms of file "{new}": -rw-rw----'], 0)
    assert ask(f"--file_content={tmp_path}/none")[1] == 1


def test_logs_generator_writes_its_number_of_lines() -> None:
    done = subprocess.run([sys.executable, "-m", "labkit.local.programs.agnhost", "logs-generator",
                           "-t", "3", "-d", "30ms"], capture_output=True, text=True, check=True)
    assert [line.split("] ")[1].split()[0] for line in done.stdout.splitlines()] == ["0", "1", "2"]
