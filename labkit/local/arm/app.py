"""The table of Resource Manager's paths."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from . import groups, login, subscriptions, upgrades
from . import managed_clusters as mc
from .catalogue import PROVIDERS
from .clusters import Clusters
from .errors import ArmError
from .http import METHODS, ArmRoute, Context, Handler
from .identity import LabTokens
from .operations import Operations
from .store import ArmStore

_SUB = "/subscriptions/{subscription}"
_GROUP = f"{_SUB}/resourcegroups/{{group}}"
_AKS = "providers/microsoft.containerservice"
_CLUSTER = f"{_GROUP}/{_AKS}/managedclusters/{{cluster}}"
_LOCATION = f"{_SUB}/{_AKS}/locations/{{location}}"

_ANONYMOUS: dict[str, dict[str, Handler]] = {
    "/metadata/endpoints": {"GET": subscriptions.metadata},
    "/msi/token": {"GET": subscriptions.token},
    "/login/{tenant}/v2.0/.well-known/openid-configuration": {"GET": login.discovery},
    "/login/{tenant}/oauth2/v2.0/{grant}": {"GET": login.refuse, "POST": login.refuse},
}

_PATHS: dict[str, dict[str, Handler]] = {
    "/tenants": {"GET": subscriptions.tenants},
    "/subscriptions": {"GET": subscriptions.list_subscriptions},
    _SUB: {"GET": subscriptions.get_subscription},
    f"{_SUB}/locations": {"GET": subscriptions.locations},
    f"{_SUB}/resources": {"GET": groups.resources},
    f"{_SUB}/resourcegroups": {"GET": groups.list_groups},
    f"{_SUB}/operationresults/{{operation}}": {"GET": mc.operation_result},
    _GROUP: {"HEAD": groups.exists, "GET": groups.get, "PUT": groups.put, "PATCH": groups.patch,
             "DELETE": groups.delete},
    f"{_GROUP}/resources": {"GET": groups.resources},
    f"{_SUB}/providers": {"GET": subscriptions.providers},
    f"{_SUB}/providers/microsoft.compute/skus": {"GET": subscriptions.skus},
    f"{_SUB}/providers/microsoft.compute/locations/{{location}}/usages": {"GET": subscriptions.usages},
    f"{_SUB}/providers/microsoft.authorization/permissions": {"GET": subscriptions.permissions},
    f"{_SUB}/providers/microsoft.authorization/roleassignments": {"GET": subscriptions.nothing},
    f"{_GROUP}/providers/microsoft.authorization/permissions": {"GET": subscriptions.permissions},
    f"{_GROUP}/providers/microsoft.authorization/roleassignments": {"GET": subscriptions.nothing},
    f"{_GROUP}/providers/microsoft.authorization/locks": {"GET": subscriptions.nothing},
    f"{_SUB}/{_AKS}/managedclusters": {"GET": mc.list_clusters},
    f"{_GROUP}/{_AKS}/managedclusters": {"GET": mc.list_clusters},
    f"{_LOCATION}/kubernetesversions": {"GET": subscriptions.kubernetes_versions},
    f"{_LOCATION}/operations/{{operation}}": {"GET": mc.operation_status},
    f"{_LOCATION}/operationresults/{{operation}}": {"GET": mc.operation_result},
    _CLUSTER: {"GET": mc.get, "PUT": mc.put, "PATCH": mc.patch, "DELETE": mc.delete},
    f"{_CLUSTER}/stop": {"POST": mc.stop},
    f"{_CLUSTER}/start": {"POST": mc.start},
    f"{_CLUSTER}/abort": {"POST": mc.abort},
    f"{_CLUSTER}/listclusteradmincredential": {"POST": mc.admin_credential},
    f"{_CLUSTER}/listclusterusercredential": {"POST": mc.user_credential},
    f"{_CLUSTER}/upgradeprofiles/default": {"GET": upgrades.of_cluster},
    f"{_CLUSTER}/agentpools": {"GET": mc.list_pools},
    f"{_CLUSTER}/agentpools/{{pool}}/upgradeprofiles/default": {"GET": upgrades.of_pool},
    f"{_CLUSTER}/agentpools/{{pool}}": {"GET": mc.get_pool, "PUT": mc.put_pool, "DELETE": mc.delete_pool},
    f"{_SUB}/providers/{{namespace}}": {"GET": subscriptions.provider},
    f"{_SUB}/providers/{{namespace}}/register": {"POST": subscriptions.set_registration},
    f"{_SUB}/providers/{{namespace}}/unregister": {"POST": subscriptions.set_registration},
}


async def _unknown(context: Context, request: Request) -> Response:
    """What no path in the table is: Resource Manager says which part of it is wrong."""
    parts = request.url.path.strip("/").split("/")
    lower = [part.lower() for part in parts]
    if "providers" in lower and len(parts) > lower.index("providers") + 1:
        at = lower.index("providers") + 1
        known = {name.lower(): name for name in PROVIDERS}
        if lower[at] not in known:
            raise ArmError(404, "InvalidResourceNamespace",
                           f"The resource namespace '{parts[at]}' is invalid.")
        types = "/".join(parts[at + 1::2])
        raise ArmError(404, "InvalidResourceType",
                       f"The resource type '{types}' could not be found in the namespace '{parts[at]}' for "
                       f"api version '{request.query_params.get('api-version')}'. The local lab serves "
                       f"'{', '.join(PROVIDERS[known[lower[at]]]) or 'no type'}' of it.")
    raise ArmError(404, "NotFound", f"The request path '{request.url.path}' is not known to the local lab's "
                   "Resource Manager.")


class ArmApp:
    """Azure Resource Manager as an ASGI application; its operations are resumed and closed by who serves it."""

    def __init__(self, context: Context) -> None:
        self.operations = context.operations
        routes = [ArmRoute(path, context, methods, anonymous=True) for path, methods in _ANONYMOUS.items()]
        routes += [ArmRoute(path, context, methods) for path, methods in _PATHS.items()]
        routes.append(ArmRoute("/{path:path}", context, dict.fromkeys(METHODS, _unknown)))
        self._app = Starlette(routes=routes)
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Azure's paths forgive a trailing slash and a doubled one."""
        if scope["type"] == "http":
            path = "/" + "/".join(part for part in scope["path"].split("/") if part)
            scope = {**scope, "path": path, "root_path": ""}
        await self._app(scope, receive, send)


def arm_app(store: ArmStore, clusters: Clusters, auth: LabTokens) -> ArmApp:
    """Azure Resource Manager over these books, this builder of clusters and these tokens."""
    return ArmApp(Context(store, clusters, auth, Operations(store, clusters)))
