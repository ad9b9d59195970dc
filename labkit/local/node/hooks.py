"""Lifecycle hooks: what a container asks its node to do after its start and before its end."""

from __future__ import annotations

import asyncio

import orjson

from labkit.local.client import Obj
from labkit.local.node import probes

_FOREVER = 1e9


async def run(hook: Obj, container: str, pod: str, target: probes.Target, seconds: float = _FOREVER) -> str:
    """Run a hook.

    Args:
        hook: the handler of a manifest.
        container: its name, for the message.
        pod: likewise, "name_namespace(uid)".
        target: how to reach the container.
        seconds: how long it may take.

    Returns:
        What went wrong, in a kubelet's words, or "".
    """
    about = f"for Container {_quoted(container)} in Pod {_quoted(pod)} failed - error:"
    if "exec" in hook:
        argv = list(hook["exec"].get("command") or ())
        code, output = await target.run(argv, seconds)
        if code == 0:
            return ""
        return (f"Exec lifecycle hook ([{' '.join(argv)}]) {about} command '{' '.join(argv)}' exited with {code}:"
                f" {output}, message: {_quoted(output)}")
    if "httpGet" in hook:
        spec = {"port": 80, **hook["httpGet"]}
        try:
            async with asyncio.timeout(seconds):
                await probes.http_get(spec, target)     # whatever it answers: a hook asks, and does not judge
        except TimeoutError:
            return ""                                   # nor does it wait longer than its pod may live
        except OSError as error:
            return f"Http lifecycle hook ({spec.get('path', '')}) {about} {error}, message: \"\""
        return ""
    if "sleep" in hook:
        await asyncio.sleep(min(hook["sleep"].get("seconds", 0), seconds))
        return ""
    return f"Cannot run handler: invalid handler: {', '.join(hook) or 'empty'}"


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()
