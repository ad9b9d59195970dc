"""Resource groups, and what is in them."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .errors import ArmError, group_not_found, not_in_the_lab
from .http import RETRY_AFTER, Context, answer, api_version, json_body
from .operations import GROUP_TYPE
from .validation import CLUSTER_TYPE, check_group_name, location_of, tags_of, untagged

_TERM = re.compile(r"(resourceType|resourceGroup|tagName|tagValue|name|location)\s+eq\s+'([^']*)'",
                   re.IGNORECASE)


def group_id(context: Context, request: Request) -> str:
    """The id of the request's group."""
    return f"{context.subscription_id}/resourceGroups/{request.path_params['group']}"


def find_group(context: Context, request: Request) -> dict[str, Any]:
    """The request's group, or Azure's 404."""
    group = context.store.get(group_id(context, request))
    if group is None:
        raise group_not_found(request.path_params["group"])
    return group


def node_group(context: Context, cluster: dict[str, Any]) -> dict[str, Any]:
    """The group that Azure makes for a cluster's machines; it goes with the cluster."""
    name = cluster["properties"]["nodeResourceGroup"]
    return {"id": f"{context.subscription_id}/resourceGroups/{name}", "name": name,
            "type": GROUP_TYPE, "location": cluster["location"], "managedBy": cluster["id"],
            "properties": {"provisioningState": "Succeeded"}}


async def exists(context: Context, request: Request) -> Response:
    """HEAD: 204 or 404, never 200."""
    found = context.store.get(group_id(context, request)) is not None
    return answer(None, 204 if found else 404)


async def get(context: Context, request: Request) -> Response:
    """GET one group."""
    return answer(find_group(context, request))


async def put(context: Context, request: Request) -> Response:
    """Create a group, or change its tags."""
    name = request.path_params["group"]
    check_group_name(name)
    body = await json_body(request)
    location = location_of(body, GROUP_TYPE)
    old = context.store.get(group_id(context, request))
    if old is None:
        group = {"id": group_id(context, request), "name": name, "type": GROUP_TYPE, "location": location,
                 **tags_of(body), "properties": {"provisioningState": "Succeeded"}}
        context.store.put(group)
        return answer(group, 201)
    refuse_while_deleting(old)
    if old["location"] != location:
        raise ArmError(409, "InvalidResourceGroupLocation",
                       f"Invalid resource group location '{location}'. The Resource group already exists in "
                       f"location '{old['location']}'.")
    group = {**untagged(old), **tags_of(body)}
    context.store.put(group)
    return answer(group, 200)


async def patch(context: Context, request: Request) -> Response:
    """Change a group's tags."""
    group = find_group(context, request)
    refuse_while_deleting(group)
    body = await json_body(request)
    if "tags" in body:
        group = {**untagged(group), **tags_of(body)}
        context.store.put(group)
    return answer(group)


async def delete(context: Context, request: Request) -> Response:
    """Delete a group with all that is in it; Azure gives a Location to poll and nothing else."""
    group = find_group(context, request)
    if "managedBy" in group:
        raise not_in_the_lab(f"deleting a node resource group; it goes with its cluster, {group['managedBy']}")
    if group["properties"]["provisioningState"] != "Deleting":
        group["properties"]["provisioningState"] = "Deleting"
        context.store.put(group)
        operation = context.operations.start("delete-group", group["id"], group["location"])
    else:
        operation = next(o for o in context.store.in_flight() if o.target == group["id"])
    host = request.headers.get("host", "localhost")
    return answer(None, 202, {
        "Location": f"https://{host}{context.subscription_id}/operationresults/{operation.id}"
                    f"?api-version={api_version(request)}",
        "Retry-After": RETRY_AFTER})


async def list_groups(context: Context, request: Request) -> Response:
    """All groups, filtered by tag where asked."""
    terms = _filter(request)
    groups = [group for group in context.store.resources(GROUP_TYPE) if _matches(group, terms)]
    return answer({"value": groups[:_top(request)]})


async def resources(context: Context, request: Request) -> Response:
    """What is in the subscription or in a group: clusters."""
    under = find_group(context, request)["id"] if "group" in request.path_params else ""
    terms = _filter(request)
    found = [cluster for cluster in context.store.resources(CLUSTER_TYPE, under) if _matches(cluster, terms)]
    keys = ("id", "name", "location", "tags", "identity", "sku")
    return answer({"value": [{**{key: cluster[key] for key in keys if key in cluster}, "type": CLUSTER_TYPE}
                             for cluster in found][:_top(request)]})


def refuse_while_deleting(group: dict[str, Any]) -> None:
    """A group that goes takes nothing in any more."""
    if group["properties"]["provisioningState"] == "Deleting":
        raise ArmError(409, "ResourceGroupBeingDeleted",
                       f"The resource group '{group['name']}' is in deprovisioning state and cannot perform "
                       "this operation.")


def _filter(request: Request) -> dict[str, str]:
    asked = request.query_params.get("$filter", "")
    return {key.lower(): value.lower() for key, value in _TERM.findall(asked)}


def _top(request: Request) -> int | None:
    top = request.query_params.get("$top", "")
    return int(top) if top.isdigit() else None


def _matches(resource: dict[str, Any], terms: dict[str, str]) -> bool:
    tags = {key.lower(): value.lower() for key, value in (resource.get("tags") or {}).items()}
    facts = {"resourcetype": resource["type"].lower(), "resourcegroup": resource["id"].split("/")[4].lower(),
             "name": resource["name"].lower(), "location": resource["location"]}
    if "tagname" in terms and terms["tagname"] not in tags:
        return False
    if "tagvalue" in terms and tags.get(terms.get("tagname", "")) != terms["tagvalue"]:
        return False
    return all(facts[key] == value for key, value in terms.items() if key in facts)
