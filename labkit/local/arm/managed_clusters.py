"""Managed clusters and their agent pools."""

from __future__ import annotations

import base64
import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .errors import ArmError, pool_not_found, resource_not_found
from .groups import find_group, node_group, refuse_while_deleting
from .http import Context, answer, api_version, json_body, operation_headers
from .identity import guid
from .store import Operation, OperationKind
from .validation import (
    CLUSTER_TYPE,
    POOL_TYPE,
    changed_cluster,
    new_cluster,
    pool_profile,
    shown,
    tags_of,
    untagged,
)

Json = dict[str, Any]

_DOING = {"Creating": "create", "Updating": "update", "Deleting": "delete", "Starting": "start",
          "Stopping": "stop"}
POLL_SECONDS = 4.0
"""How long a poll is held open for an operation to end."""


def _id(context: Context, request: Request) -> str:
    return (f"{context.subscription_id}/resourcegroups/{request.path_params['group']}/providers/"
            f"{CLUSTER_TYPE}/{request.path_params['cluster']}")


def find_cluster(context: Context, request: Request) -> Json:
    """The request's cluster, or Azure's 404."""
    find_group(context, request)
    cluster = context.store.get(_id(context, request))
    if cluster is None:
        raise resource_not_found(CLUSTER_TYPE, request.path_params["cluster"], request.path_params["group"])
    return cluster


def _idle(cluster: Json, *, running: bool = True) -> Json:
    """The cluster, if no operation is under way on it."""
    properties = cluster["properties"]
    if doing := _DOING.get(properties["provisioningState"]):
        raise ArmError(409, "OperationNotAllowed",
                       f"Operation is not allowed because there's an in progress {doing} managed cluster "
                       f"operation on the managed cluster {cluster['name']}. Please wait for it to finish "
                       "before starting a new operation. See https://aka.ms/aks-pending-operation for more "
                       "details", provider=True)
    if running and properties["powerState"]["code"] == "Stopped":
        raise ArmError(400, "OperationNotAllowed", f"managed cluster {cluster['name']} is stopped: start it "
                       "before this operation (az aks start).", provider=True)
    return cluster


def _accept(context: Context, kind: OperationKind, cluster: Json, state: str) -> Operation:
    """Store the cluster in its new state and begin the operation that leads out of it."""
    cluster["properties"]["provisioningState"] = state
    context.store.put(cluster)
    return context.operations.start(kind, cluster["id"], cluster["location"])


async def get(context: Context, request: Request) -> Response:
    """GET one cluster."""
    return answer(shown(find_cluster(context, request), api_version(request)))


async def put(context: Context, request: Request) -> Response:
    """Create or update a cluster."""
    if context.store.provider_state("Microsoft.ContainerService") != "Registered":
        raise ArmError(409, "MissingSubscriptionRegistration",
                       "The subscription is not registered to use namespace 'Microsoft.ContainerService'. "
                       "See https://aka.ms/rps-not-found for how to register subscriptions.")
    refuse_while_deleting(find_group(context, request))
    body = await json_body(request)
    old = context.store.get(_id(context, request))
    if old is None:
        cluster = new_cluster(request.path_params["cluster"], body, id=_id(context, request),
                              fqdn_id=secrets.token_hex(4), api_version=api_version(request))
        cluster["identity"].update(principalId=guid(cluster["id"]), tenantId=context.auth.tenant)
        context.store.put(node_group(context, cluster))
        operation = _accept(context, "create", cluster, "Creating")
        return answer(shown(cluster, api_version(request)), 201,
                      operation_headers(request, context, operation, location=False))
    cluster = changed_cluster(_idle(old), body, api_version=api_version(request))
    for profile in cluster["properties"]["agentPoolProfiles"]:
        profile["provisioningState"] = "Updating"
    operation = _accept(context, "update", cluster, "Updating")
    return answer(shown(cluster, api_version(request)), 200,
                  operation_headers(request, context, operation, location=False))


async def patch(context: Context, request: Request) -> Response:
    """Change a cluster's tags: done at once."""
    cluster = find_cluster(context, request)
    body = await json_body(request)
    if "tags" in body:
        cluster = {**untagged(cluster), **tags_of(body)}
        context.store.put(cluster)
    return answer(shown(cluster, api_version(request)))


async def delete(context: Context, request: Request) -> Response:
    """Delete a cluster; one that is not there is no error, a group that is not there is one."""
    find_group(context, request)
    cluster = context.store.get(_id(context, request))
    if cluster is None:
        return answer(None, 204)
    pending = [o for o in context.store.in_flight() if o.target == cluster["id"] and o.kind == "delete"]
    if not pending:
        if cluster["properties"]["provisioningState"] != "Deleting":
            _idle(cluster, running=False)
        pending = [_accept(context, "delete", cluster, "Deleting")]
    return answer(None, 202, operation_headers(request, context, pending[0], location=True))


async def list_clusters(context: Context, request: Request) -> Response:
    """The clusters of the subscription or of a group."""
    under = find_group(context, request)["id"] if "group" in request.path_params else ""
    found = context.store.resources(CLUSTER_TYPE, under)
    return answer({"value": [shown(cluster, api_version(request)) for cluster in found]})


async def stop(context: Context, request: Request) -> Response:
    """Take the nodes away and keep the objects."""
    cluster = _idle(find_cluster(context, request), running=False)
    operation = _accept(context, "stop", cluster, "Stopping")
    return answer(None, 202, operation_headers(request, context, operation, location=True))


async def start(context: Context, request: Request) -> Response:
    """Bring a stopped cluster back."""
    cluster = _idle(find_cluster(context, request), running=False)
    operation = _accept(context, "start", cluster, "Starting")
    return answer(None, 202, operation_headers(request, context, operation, location=True))


async def abort(context: Context, request: Request) -> Response:
    """Abort what is under way on the cluster; it is left as far as it came, in the state Canceled."""
    cluster = find_cluster(context, request)
    pending = [o for o in context.store.in_flight() if o.target == cluster["id"]]
    if not pending:
        raise ArmError(409, "OperationNotAllowed", f"There is no operation in progress on the managed cluster "
                       f"{cluster['name']}: there is nothing to abort.", provider=True)
    done = await context.operations.abort(pending[0])
    return answer(None, 202, operation_headers(request, context, done, location=True))


async def admin_credential(context: Context, request: Request) -> Response:
    """POST …/listClusterAdminCredential."""
    cluster = find_cluster(context, request)
    if cluster["properties"]["disableLocalAccounts"]:
        raise ArmError(400, "BadRequest", "Getting static credential is not allowed because this cluster is "
                       "set to disable local accounts.", provider=True)
    return _credential(context, cluster, admin=True)


async def user_credential(context: Context, request: Request) -> Response:
    """POST …/listClusterUserCredential."""
    return _credential(context, find_cluster(context, request), admin=False)


def _credential(context: Context, cluster: Json, *, admin: bool) -> Response:
    try:
        kubeconfig = context.clusters.kubeconfig(context.store.key(cluster["id"]), admin=admin)
    except KeyError:
        _idle(cluster)
        raise ArmError(404, "NotFound", f"The managed cluster {cluster['name']} has no API server: its state "
                       f"is {cluster['properties']['provisioningState']}.", provider=True) from None
    name = "clusterAdmin" if admin else "clusterUser"
    return answer({"kubeconfigs": [{"name": name, "value": base64.b64encode(kubeconfig).decode()}]})


# ------------------------------------------------------------------------------------ agent pools


def _pool(cluster: Json, profile: Json) -> Json:
    return {"id": f"{cluster['id']}/agentPools/{profile['name']}", "name": profile["name"],
            "type": POOL_TYPE, "properties": {k: v for k, v in profile.items() if k != "name"}}


def find_pool(context: Context, request: Request) -> tuple[Json, Json]:
    """The request's cluster and its agent pool, or Azure's 404."""
    cluster, asked = find_cluster(context, request), request.path_params["pool"]
    for profile in cluster["properties"]["agentPoolProfiles"]:
        if profile["name"].lower() == asked.lower():
            return cluster, profile
    raise pool_not_found(cluster["name"], asked, request.path_params["group"])


async def list_pools(context: Context, request: Request) -> Response:
    """The pools of a cluster."""
    cluster = find_cluster(context, request)
    return answer({"value": [_pool(cluster, p) for p in cluster["properties"]["agentPoolProfiles"]]})


async def get_pool(context: Context, request: Request) -> Response:
    """GET one pool."""
    return answer(_pool(*find_pool(context, request)))


async def put_pool(context: Context, request: Request) -> Response:
    """Add a pool or change its size."""
    cluster = _idle(find_cluster(context, request))
    profile = pool_profile(request.path_params["pool"], await json_body(request), cluster)
    profiles = cluster["properties"]["agentPoolProfiles"]
    names = [p["name"] for p in profiles]
    if profile["name"] in names:
        status, profile["provisioningState"] = 200, "Updating"
        profiles[names.index(profile["name"])] = profile
    else:
        status = 201
        profiles.append(profile)
    operation = _accept(context, "update", cluster, "Updating")
    return answer(_pool(cluster, profile), status,
                  operation_headers(request, context, operation, location=False))


async def delete_pool(context: Context, request: Request) -> Response:
    """Take a pool away with its nodes."""
    find_group(context, request)
    cluster, profile = find_pool(context, request)
    _idle(cluster)
    others = [p for p in cluster["properties"]["agentPoolProfiles"] if p is not profile]
    if profile["mode"] == "System" and not any(p["mode"] == "System" for p in others):
        raise ArmError(400, "OperationNotAllowed", f"There has to be at least one system agent pool. "
                       f"{profile['name']} is the last one.", provider=True)
    profile["provisioningState"] = "Deleting"
    operation = _accept(context, "update", cluster, "Updating")
    return answer(None, 202, operation_headers(request, context, operation, location=True))


# ------------------------------------------------------------------------------------- operations


async def operation_status(context: Context, request: Request) -> Response:
    """How an operation stands; held open for a while, so that its end is told at once."""
    operation = await _operation(context, request)
    body: Json = {"name": operation.id, "status": operation.status, "startTime": operation.started}
    if operation.ended:
        body["endTime"] = operation.ended
    if operation.code:
        body["error"] = {"code": operation.code, "message": operation.message}
    return answer(body, 200, {} if operation.ended else {"Retry-After": "1"})


async def operation_result(context: Context, request: Request) -> Response:
    """The `Location` of an operation: 202 until it ends."""
    operation = await _operation(context, request)
    if not operation.ended:
        return answer(None, 202, {"Location": str(request.url.replace(scheme="https")), "Retry-After": "1"})
    if operation.code:
        raise ArmError(409, operation.code, operation.message or "")
    return answer(None, 200 if operation.kind == "delete-group" else 204)


async def _operation(context: Context, request: Request) -> Operation:
    id = request.path_params["operation"].lower()
    await context.operations.wait(id, POLL_SECONDS)
    operation = context.store.operation(id)
    if operation is None:
        raise ArmError(404, "NotFound", f"The operation '{id}' could not be found.")
    return operation
