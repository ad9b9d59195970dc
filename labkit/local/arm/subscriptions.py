"""Tenants, the subscription, its regions, resource providers, sizes and quota; metadata and tokens."""

from __future__ import annotations

import hmac
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from . import catalogue
from .errors import ArmError
from .http import Context, answer
from .pools import MAX_NODES
from .validation import CLUSTER_TYPE, location_of

NAME = "labkit local lab"


async def metadata(context: Context, request: Request) -> Response:
    """What a cloud is made of, for `az cloud register`.

    Only Resource Manager exists here. The other addresses are those of a cloud that has none, so that a
    client that tries them fails by name instead of calling the public cloud.
    """
    arm = f"https://{request.headers.get('host', 'localhost')}/"
    nowhere = "https://not-in-the-local-lab.invalid/"
    return answer({
        "name": "labkit", "portal": nowhere, "resourceManager": arm, "gallery": nowhere,
        "galleryEndpoint": nowhere, "graph": nowhere, "graphEndpoint": nowhere, "graphAudience": nowhere,
        "portalEndpoint": nowhere, "batch": nowhere, "media": nowhere, "sqlManagement": nowhere,
        "vmImageAliasDoc": nowhere, "microsoftGraphResourceId": nowhere,
        "authentication": {"loginEndpoint": f"{arm}login", "audiences": [arm], "tenant": context.auth.tenant,
                           "identityProvider": "AAD"},
        "suffixes": {"storage": "invalid", "keyVaultDns": "invalid", "acrLoginServer": "invalid",
                     "sqlServerHostname": "invalid"},
    })


async def token(context: Context, request: Request) -> Response:
    """The managed-identity endpoint, App Service flavour."""
    secret = request.headers.get("x-identity-header", "")
    if not hmac.compare_digest(secret.encode(), context.auth.identity_header.encode()):
        return answer({"statusCode": 401, "message": "The X-IDENTITY-HEADER header is missing or wrong: use "
                       "IDENTITY_HEADER from `labkit env`."}, 401)
    resource = request.query_params.get("resource")
    if not resource:
        return answer({"statusCode": 400, "message": "The query parameter 'resource' is required."}, 400)
    access_token, expires_on = context.auth.issue(resource)
    return answer({"access_token": access_token, "expires_on": str(expires_on), "resource": resource,
                   "token_type": "Bearer", "client_id": context.auth.subscription})


async def tenants(context: Context, request: Request) -> Response:
    """GET /tenants."""
    tenant = context.auth.tenant
    return answer({"value": [{"id": f"/tenants/{tenant}", "tenantId": tenant, "tenantCategory": "Home",
                              "displayName": NAME, "defaultDomain": "labkit.invalid",
                              "domains": ["labkit.invalid"]}]})


def _subscription(context: Context) -> dict[str, Any]:
    subscription = context.auth.subscription
    return {"id": f"/subscriptions/{subscription}", "authorizationSource": "RoleBased",
            "managedByTenants": [], "subscriptionId": subscription, "tenantId": context.auth.tenant,
            "displayName": NAME, "state": "Enabled",
            "subscriptionPolicies": {"locationPlacementId": "Public_2014-09-01",
                                     "quotaId": "LabkitLocal", "spendingLimit": "On"}}


async def list_subscriptions(context: Context, request: Request) -> Response:
    """GET /subscriptions."""
    return answer({"value": [_subscription(context)], "count": {"type": "Total", "value": 1}})


async def get_subscription(context: Context, request: Request) -> Response:
    """GET /subscriptions/{id}."""
    return answer(_subscription(context))


async def locations(context: Context, request: Request) -> Response:
    """GET …/locations."""
    return answer({"value": [{
        "id": f"{context.subscription_id}/locations/{region.name}", "name": region.name,
        "type": "Region", "displayName": region.display,
        "regionalDisplayName": f"({region.group}) {region.display}",
        "metadata": {"regionType": "Physical", "regionCategory": "Recommended",
                     "geography": region.geography, "geographyGroup": region.group,
                     "latitude": region.latitude, "longitude": region.longitude,
                     "physicalLocation": region.display, "pairedRegion": []},
    } for region in catalogue.REGIONS.values()]})


def _provider(context: Context, namespace: str) -> dict[str, Any]:
    regional = namespace not in catalogue.LOCATIONLESS
    places = [region.display for region in catalogue.REGIONS.values()] if regional else []
    return {
        "id": f"{context.subscription_id}/providers/{namespace}", "namespace": namespace,
        "resourceTypes": [{"resourceType": type, "locations": places,
                           "apiVersions": list(catalogue.API_VERSIONS), "capabilities": "None"}
                          for type in catalogue.PROVIDERS[namespace]],
        "registrationState": context.store.provider_state(namespace),
        "registrationPolicy": "RegistrationRequired" if regional else "RegistrationFree",
    }


def _namespace(request: Request) -> str:
    asked = request.path_params["namespace"]
    for namespace in catalogue.PROVIDERS:
        if namespace.lower() == asked.lower():
            return namespace
    raise ArmError(404, "InvalidResourceNamespace", f"The resource namespace '{asked}' is invalid.")


async def providers(context: Context, request: Request) -> Response:
    """GET …/providers."""
    return answer({"value": [_provider(context, namespace) for namespace in catalogue.PROVIDERS]})


async def provider(context: Context, request: Request) -> Response:
    """GET …/providers/{namespace}."""
    return answer(_provider(context, _namespace(request)))


async def set_registration(context: Context, request: Request) -> Response:
    """POST …/register and …/unregister."""
    namespace = _namespace(request)
    context.store.set_provider_state(
        namespace, "Unregistered" if request.url.path.lower().endswith("/unregister") else "Registered")
    return answer(_provider(context, namespace))


async def kubernetes_versions(context: Context, request: Request) -> Response:
    """GET …/locations/{location}/kubernetesVersions."""
    location_of(request.path_params, CLUSTER_TYPE)
    return answer(catalogue.kubernetes_versions())


async def usages(context: Context, request: Request) -> Response:
    """GET …/Microsoft.Compute/locations/{location}/usages: the quota is the lab's own limit."""
    location_of(request.path_params, CLUSTER_TYPE)
    used: dict[str, int] = {"cores": 0}
    for cluster in context.store.resources(CLUSTER_TYPE):
        for pool in cluster["properties"]["agentPoolProfiles"]:
            size = catalogue.VM_SIZES[pool["vmSize"].lower()]
            for name in ("cores", size.family):
                used[name] = used.get(name, 0) + size.vcpus * pool["count"]
    display = {"cores": "Total Regional vCPUs"}
    families = {"cores", *(size.family for size in catalogue.VM_SIZES.values())}
    limit = 4 * MAX_NODES
    return answer({"value": [{
        "limit": limit, "unit": "Count", "currentValue": used.get(name, 0),
        "name": {"value": name, "localizedValue": display.get(name, f"{name} vCPUs")},
    } for name in sorted(families)]})


async def skus(context: Context, request: Request) -> Response:
    """GET …/Microsoft.Compute/skus: the sizes that the lab's nodes can be asked to have."""
    asked = request.query_params.get("$filter", "")
    only = asked.split("'")[1].lower() if asked.count("'") == 2 else None
    return answer({"value": [{
        "resourceType": "virtualMachines", "name": size.name, "tier": "Standard",
        "size": size.name.removeprefix("Standard_"), "family": size.family, "locations": [name],
        "locationInfo": [{"location": name, "zones": []}], "restrictions": [],
        "capabilities": [{"name": "vCPUs", "value": str(size.vcpus)},
                         {"name": "MemoryGB", "value": str(size.memory_gb)},
                         {"name": "AcceleratedNetworkingEnabled", "value": "False"}],
    } for size in catalogue.VM_SIZES.values() for name in ([only] if only else catalogue.REGIONS)]})


async def nothing(context: Context, request: Request) -> Response:
    """An empty list: roles are not modelled, the one identity may do everything."""
    return answer({"value": []})


async def permissions(context: Context, request: Request) -> Response:
    """GET …/permissions: the one identity may do everything."""
    return answer({"value": [{"actions": ["*"], "notActions": [], "dataActions": [], "notDataActions": []}]})
