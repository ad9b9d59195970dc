"""A load balancer's health probe: one connection from Azure's address for them to a node's port."""

from __future__ import annotations

import asyncio
import socket


async def probe(sock: socket.socket, source: str, address: str, port: int, path: str | None) -> bool | None:
    """Connect, and ask by HTTP where there is a path. How long to wait for silence is the caller's to say.

    Args:
        sock: of the router; closed afterwards.
        source: the address that probes come from.
        address: the node's.
        port: on the node.
        path: what to GET; None: that somebody accepts is enough.

    Returns:
        Whether the node is well: a connection, and for HTTP the status 200. False where it refuses or says otherwise,
        None where the network says that there is no way.
    """
    loop = asyncio.get_running_loop()
    with sock:
        sock.setblocking(False)
        try:
            sock.bind((source, 0))
            await loop.sock_connect(sock, (address, port))
            if path is None:
                return True
            request = f"GET {path} HTTP/1.1\r\nHost: {address}:{port}\r\nUser-Agent: Load Balancer Agent\r\n\r\n"
            await loop.sock_sendall(sock, request.encode())
            answer = b""
            while b"\r\n" not in answer and (part := await loop.sock_recv(sock, 4096)):
                answer += part
            return answer.split(b" ", 2)[1:2] == [b"200"]
        except (ConnectionRefusedError, ConnectionResetError):
            return False
        except OSError:
            return None
