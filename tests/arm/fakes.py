"""A builder of clusters that builds nothing: it remembers what it was asked."""

import asyncio

from labkit.local.arm import ClusterError, ClusterSpec, PoolSpec


class FakeClusters:
    """Builds at once, unless told to wait (`gate`) or to fail (`error`)."""

    def __init__(self) -> None:
        self.specs: dict[str, ClusterSpec] = {}
        self.kube_proxy: dict[str, bool] = {}
        self.calls: list[tuple] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: ClusterError | None = None

    async def create(self, spec: ClusterSpec) -> str:
        self.calls.append(("create", spec.key))
        await self.gate.wait()
        if self.error:
            raise self.error
        self.specs[spec.key] = spec
        return "192.0.2.11"

    async def scale(self, key: str, pool: PoolSpec) -> None:
        self.calls.append(("scale", key, pool.name, pool.count))
        self.pool = pool

    async def set_kube_proxy(self, key: str, enabled: bool) -> None:
        self.kube_proxy[key] = enabled

    async def stop(self, key: str) -> None:
        self.calls.append(("stop", key))

    async def start(self, key: str) -> None:
        self.calls.append(("start", key))

    async def delete(self, key: str) -> None:
        self.calls.append(("delete", key))
        self.specs.pop(key, None)

    def kubeconfig(self, key: str, *, admin: bool) -> bytes:
        return f"kubeconfig of {self.specs[key].name}, admin={admin}".encode()
