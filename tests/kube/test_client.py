"""The client of the cluster's API, where no lab is needed."""

import base64
import hashlib
import socket
import struct
import threading

import pytest

from labkit.errors import UnreachableError
from labkit.kube import Kube

_WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


def _opens_and_dies(server: socket.socket) -> None:
    """An API server that is killed while a command runs."""
    connection, _ = server.accept()
    with connection:
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(4096)
        key = next(line.split(b": ")[1] for line in request.split(b"\r\n")
                   if line.lower().startswith(b"sec-websocket-key"))
        accepted = base64.b64encode(hashlib.sha1(key + _WEBSOCKET).digest())
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                           b"Sec-WebSocket-Accept: " + accepted + b"\r\n\r\n")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye


def test_a_command_whose_connection_is_lost_says_what_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kube, "path", lambda *words: "/api/v1/namespaces/default/pods/one/exec")
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"http://127.0.0.1:{server.getsockname()[1]}"
        kube = Kube({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                     "clusters": [{"name": "c", "cluster": {"server": host}}], "users": [{"name": "u", "user": {}}]})
        dies = threading.Thread(target=_opens_and_dies, args=(server,))
        dies.start()
        with pytest.raises(UnreachableError, match="does not answer") as caught:
            kube.exec("one", "default", ["sleep", "9"], timeout=20)
        dies.join()
        assert "labkit status" in caught.value.fix
