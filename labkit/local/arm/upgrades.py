"""What a cluster can be upgraded to: nothing, as the lab's list of versions says too."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .http import Context, answer
from .managed_clusters import find_cluster, find_pool
from .validation import CLUSTER_TYPE, POOL_TYPE


def _profile(of: str, type: str, properties: dict[str, Any]) -> Response:
    return answer({"id": f"{of}/upgradeprofiles/default", "name": "default", "type": f"{type}/upgradeProfiles",
                   "properties": properties})


async def of_cluster(context: Context, request: Request) -> Response:
    """GET …/upgradeProfiles/default: none, as a list: az makes no table of a null."""
    cluster = find_cluster(context, request)
    properties = cluster["properties"]
    version = {"kubernetesVersion": properties["currentKubernetesVersion"], "osType": "Linux",
               "upgrades": []}
    return _profile(cluster["id"], CLUSTER_TYPE, {
        "controlPlaneProfile": version,
        "agentPoolProfiles": [{**version, "name": pool["name"]} for pool in properties["agentPoolProfiles"]]})


async def of_pool(context: Context, request: Request) -> Response:
    """GET …/agentPools/{pool}/upgradeProfiles/default."""
    cluster, pool = find_pool(context, request)
    return _profile(f"{cluster['id']}/agentPools/{pool['name']}", POOL_TYPE, {
        "kubernetesVersion": pool["currentOrchestratorVersion"], "osType": "Linux", "upgrades": [],
        "latestNodeImageVersion": pool["nodeImageVersion"]})
