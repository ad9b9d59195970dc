"""HTTP requests as a client outside the cluster: a connection of its own for each, never a kept one."""

from __future__ import annotations

import base64
import http.client
import time
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from labkit.errors import TargetError
from labkit.targets import OutsideClient


@dataclass(frozen=True)
class Reply:
    """What came back on one connection, or that nothing did.

    Args:
        texts: the bodies, in the order of the paths; fewer where the server hung up in between.
        seconds: from opening the connection to the end of the first body.
        error: why there was no answer, in words; empty where there was one.
    """

    texts: tuple[str, ...]
    seconds: float
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether there was an answer."""
        return not self.error


def get(client: OutsideClient, host: str, port: int, *paths: str, timeout: float = 3.0) -> Reply:
    """GETs on one fresh connection, opened from where the client is.

    Args:
        client: who asks.
        host: an address, such as a load balancer's.
        port: its port.
        paths: what to ask for, one after the other on the same connection.
        timeout: seconds; a policy that denies drops packets, so silence is what a denial looks like.

    Raises:
        TargetError: the client's proxy does not know us: nothing was asked.
    """
    connection = _connection(client, host, port, timeout)
    texts: list[str] = []
    begin, seconds = time.monotonic(), 0.0
    try:
        for path in paths:
            if texts and connection.sock is None:
                break  # another connection could end at another pod
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            seconds = seconds or time.monotonic() - begin
            if response.status >= 400:
                return Reply(tuple(texts), seconds, f"HTTP {response.status}")
            texts.append(text)
        return Reply(tuple(texts), seconds)
    except TimeoutError:
        return Reply((), time.monotonic() - begin, f"no answer within {timeout:g} s")
    except (OSError, http.client.HTTPException) as error:
        if "407" in str(error):  # http.client has no class for what a tunnel answers
            raise TargetError(
                f"The lab does not let us connect as {client.name}.", str(error),
                "the lab was started anew: open it again with `Lab.open()`.") from error
        return Reply((), time.monotonic() - begin, str(error) or type(error).__name__)
    finally:
        connection.close()


def _connection(client: OutsideClient, host: str, port: int, timeout: float) -> http.client.HTTPConnection:
    if not client.proxy_url:
        return http.client.HTTPConnection(host, port, timeout=timeout)
    proxy = urlsplit(client.proxy_url)
    connection = http.client.HTTPConnection(proxy.hostname or "", proxy.port, timeout=timeout)
    secret = f"{unquote(proxy.username or '')}:{unquote(proxy.password or '')}"
    token = base64.b64encode(secret.encode()).decode()
    connection.set_tunnel(host, port, headers={"Proxy-Authorization": f"Basic {token}"})
    return connection
