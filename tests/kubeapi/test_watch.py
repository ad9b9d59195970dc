"""Watches in process: order, selectors, re-entrancy."""

from __future__ import annotations

import asyncio

from labkit.local.kubeapi import Api

from .conftest import TOKEN


def config(name: str, **labels: str) -> dict:
    return {"metadata": {"name": name, "labels": labels}}


def test_handlers_run_after_the_write_in_order_and_never_nested(api: Api) -> None:
    seen: list[str] = []
    depth = 0

    def handler(type_, obj):
        nonlocal depth
        depth += 1
        assert depth == 1
        seen.append(f"{type_} {obj['metadata']['name']}")
        if obj["metadata"]["name"] == "a" and type_ == "ADDED":
            api.create("configmaps", config("b"), "default")
            seen.append("created b")
        depth -= 1

    async def main() -> None:
        api.create("configmaps", config("zero"), "default")
        subscription = api.watch("configmaps", handler)
        assert seen == ["ADDED zero"]
        api.create("configmaps", config("a"), "default")
        assert seen == ["ADDED zero"]                    # not inside the write
        await asyncio.sleep(0)
        api.delete("configmaps", "a", "default")
        await asyncio.sleep(0)
        api.delete("configmaps", "b", "default")
        subscription.close()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert seen == ["ADDED zero", "ADDED a", "created b", "ADDED b", "DELETED a"]


def test_an_object_enters_and_leaves_a_selector(api: Api) -> None:
    seen: list[str] = []
    api.watch("configmaps", lambda type_, obj: seen.append(type_), namespace="default", label_selector="on=yes")
    api.create("configmaps", config("a"), "default")
    api.create("configmaps", config("a", on="yes"), "kube-system")
    assert seen == []
    api.patch("configmaps", "a", {"metadata": {"labels": {"on": "yes"}}}, "default")
    api.patch("configmaps", "a", {"data": {"k": "v"}}, "default")
    api.patch("configmaps", "a", {"metadata": {"labels": {"on": "no"}}}, "default")
    api.delete("configmaps", "a", "default")
    assert seen == ["ADDED", "MODIFIED", "DELETED"]


def test_a_failing_handler_does_not_stop_the_others(api: Api, caplog) -> None:
    seen: list[str] = []
    api.watch("configmaps", lambda type_, obj: 1 / 0)
    api.watch("configmaps", lambda type_, obj: seen.append(type_))
    api.create("configmaps", config("a"), "default")
    assert seen == ["ADDED"]
    assert "a watch handler failed" in caplog.text


def test_a_watch_over_http_sends_a_write_at_once(api: Api) -> None:
    """Within turns of the loop: one that was looked after from time to time would not have sent it by then."""
    sent: list[bytes] = []

    async def send(message) -> None:
        sent.append(message.get("body", b""))

    async def main() -> None:
        gone = asyncio.Event()
        asked = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive():
            if asked:
                return asked.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        request = {"type": "http", "method": "GET", "path": "/api/v1/namespaces/default/configmaps",
                   "query_string": b"watch=true", "headers": [(b"authorization", f"Bearer {TOKEN}".encode())]}
        watch = asyncio.ensure_future(api(request, receive, send))

        async def told(name: str) -> None:
            for _ in range(10):
                await asyncio.sleep(0)
            assert f'"name":"{name}"'.encode() in sent[-1]

        api.create("configmaps", config("there"), "default")
        await told("there")
        for name in ("second", "third"):
            api.create("configmaps", config(name), "default")
            await told(name)
        gone.set()
        await asyncio.wait_for(watch, 60)

    asyncio.run(main())
