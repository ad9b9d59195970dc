"""The cells of tables, in Kubernetes' own columns. Pure.

A row of the table is (column, function from the object to the cell, priority, type).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labkit.local.client import Obj

from . import pod_cells
from .subresources import label_selector, selector_text
from .words import NONE, UNKNOWN, age, duration, seconds_since


def _get(*path: str, default: Any = NONE) -> Callable[[Obj], Any]:
    def cell(obj: Obj) -> Any:
        value: Any = obj
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        return default if value is None or value == "" else value

    return cell


def _count(*path: str) -> Callable[[Obj], int]:
    get = _get(*path, default=())
    return lambda obj: len(get(obj))


def _age(obj: Obj) -> str:
    return age(obj["metadata"].get("creationTimestamp"))


def _pairs(labels: dict[str, str] | None) -> str:
    return ",".join(f"{k}={v}" for k, v in sorted((labels or {}).items())) or NONE


def _template(what: str) -> Callable[[Obj], str]:
    def cell(obj: Obj) -> str:
        containers = ((obj.get("spec") or {}).get("template") or {}).get("spec", {}).get("containers") or ()
        return ",".join(str(c.get(what)) for c in containers) or NONE

    return cell


def _selector(obj: Obj) -> str:
    return selector_text(label_selector(obj.get("kind", ""), obj.get("spec") or {})) or NONE


# nodes

def _node_status(node: Obj) -> str:
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = next((c["status"] for c in conditions if c["type"] == "Ready"), None)
    words = ["Unknown" if ready is None else "Ready" if ready == "True" else "NotReady"]
    if (node.get("spec") or {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _node_roles(node: Obj) -> str:
    labels = node["metadata"].get("labels") or {}
    roles = {k.partition("node-role.kubernetes.io/")[2] for k in labels if k.startswith("node-role.kubernetes.io/")}
    if role := labels.get("kubernetes.io/role"):
        roles.add(role)
    return ",".join(sorted(r for r in roles if r)) or NONE


def _node_address(kind: str) -> Callable[[Obj], str]:
    def cell(node: Obj) -> str:
        addresses = (node.get("status") or {}).get("addresses") or ()
        return next((a["address"] for a in addresses if a["type"] == kind), NONE)

    return cell


def _node_info(key: str) -> Callable[[Obj], Any]:
    return _get("status", "nodeInfo", key, default=UNKNOWN)


# services, endpoints

def _service_ports(svc: Obj) -> str:
    out = []
    for p in svc["spec"].get("ports") or ():
        node = f":{p['nodePort']}" if p.get("nodePort") else ""
        out.append(f"{p['port']}{node}/{p.get('protocol', 'TCP')}")
    return ",".join(out) or NONE


def _external_ip(svc: Obj) -> str:
    spec = svc["spec"]
    external = spec.get("externalIPs") or []
    if spec["type"] == "ExternalName":
        return spec.get("externalName") or NONE
    if spec["type"] == "LoadBalancer":
        got = [i.get("ip") or i.get("hostname") for i in
               ((svc.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()]
        return ",".join([*got, *external]) or "<pending>"
    return ",".join(external) or NONE


def _endpoints(ep: Obj) -> str:
    out = []
    for subset in ep.get("subsets") or ():
        ports = subset.get("ports") or [{}]
        for port in ports:
            for address in subset.get("addresses") or ():
                out.append(f"{address['ip']}:{port['port']}" if port else address["ip"])
    return _some(out, NONE)


def _some(values: list[str], none: str = "<unset>") -> str:
    if not values:
        return none
    return ",".join(values[:3]) + (f" + {len(values) - 3} more..." if len(values) > 3 else "")


def _slice_ports(s: Obj) -> str:
    return _some([str(p["port"]) if p.get("port") else "*" for p in s.get("ports") or ()])


def _slice_endpoints(s: Obj) -> str:
    return _some([a for e in s.get("endpoints") or () for a in (e.get("addresses") or ())[:1]])


# jobs

def _completions(job: Obj) -> str:
    spec, done = job["spec"], (job.get("status") or {}).get("succeeded", 0)
    if (wanted := spec.get("completions")) is not None:
        return f"{done}/{wanted}"
    parallel = spec.get("parallelism") or 1
    return f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"


def _job_status(job: Obj) -> str:
    for c in (job.get("status") or {}).get("conditions") or ():
        if c["status"] == "True" and c["type"] in ("Complete", "Failed", "Suspended"):
            return str(c["type"])
    return "Running"


def _job_duration(job: Obj) -> str:
    status = job.get("status") or {}
    start, end = seconds_since(status.get("startTime")), seconds_since(status.get("completionTime"))
    if start is None:
        return ""
    return duration(start - (end or 0))


# events

def _last_seen(e: Obj) -> str:
    stamp = (e.get("series") or {}).get("lastObservedTime") or e.get("lastTimestamp") or e.get("eventTime") \
        or e["metadata"].get("creationTimestamp")
    return age(stamp)


def _event_object(e: Obj) -> str:
    about = e.get("involvedObject") or {}
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


def _first_seen(e: Obj) -> str:
    return age(e.get("firstTimestamp") or e.get("eventTime") or e["metadata"].get("creationTimestamp"))


def _ready_of(obj: Obj) -> str:
    return f"{(obj.get('status') or {}).get('readyReplicas', 0)}/{obj['spec'].get('replicas', 0)}"


def _ingress_hosts(ing: Obj) -> str:
    return _some([r["host"] for r in ing["spec"].get("rules") or () if r.get("host")], "*")


def _ingress_address(ing: Obj) -> str:
    got = ((ing.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return ",".join(i.get("ip") or i.get("hostname") for i in got)


def _data_count(obj: Obj) -> int:
    return len(obj.get("data") or {}) + len(obj.get("binaryData") or {})


def _subjects(kind: str) -> Callable[[Obj], str]:
    def cell(obj: Obj) -> str:
        return ", ".join(f"{s['namespace']}/{s['name']}" if kind == "ServiceAccount" else s["name"]
                         for s in obj.get("subjects") or () if s.get("kind") == kind)

    return cell


def _class(obj: Obj) -> str:
    suffix = " (default)" if (obj["metadata"].get("annotations") or {}).get(
        "storageclass.kubernetes.io/is-default-class") == "true" else ""
    return str(obj["metadata"]["name"]) + suffix


def _controller(obj: Obj) -> str:
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((f"{r['kind'].lower()}.apps/{r['name']}" for r in owners if r.get("controller")), NONE)


def _last_schedule(obj: Obj) -> str:
    last = (obj.get("status") or {}).get("lastScheduleTime")
    return age(last) if last else NONE


_NAME = ("Name", lambda o: o["metadata"]["name"])
_AGE = ("Age", _age)
_CONTAINERS = ("Containers", _template("name"), 1)
_IMAGES = ("Images", _template("image"), 1)
_SELECTOR = ("Selector", _selector, 1)
_BINDING = (("Users", _subjects("User"), 1), ("Groups", _subjects("Group"), 1),
            ("ServiceAccounts", _subjects("ServiceAccount"), 1))


def _targets(obj: Obj) -> str:
    """Nobody measures here: what is wanted, beside what is not known."""
    wanted = [(m.get("resource") or {}).get("target") or {} for m in obj["spec"].get("metrics") or ()]
    return ", ".join(f"{UNKNOWN}/{t.get('averageUtilization')}%" if "averageUtilization" in t
                     else f"{UNKNOWN}/{t.get('averageValue', NONE)}" for t in wanted) or NONE


def _role(obj: Obj) -> str:
    ref = obj.get("roleRef") or {}
    return f"{ref.get('kind')}/{ref.get('name')}"


def _number(*path: str) -> Callable[[Obj], Any]:
    return _get(*path, default=0)


_REPLICAS = (_NAME, ("Desired", _number("spec", "replicas"), 0, "integer"),
             ("Current", _number("status", "replicas"), 0, "integer"),
             ("Ready", _number("status", "readyReplicas"), 0, "integer"), _AGE, _CONTAINERS, _IMAGES, _SELECTOR)

Row = tuple[Any, ...]
def _api_service(obj: Obj) -> str:
    service = obj["spec"].get("service")
    return f"{service['namespace']}/{service['name']}" if service else "Local"


def _available(obj: Obj) -> str:
    for one in (obj.get("status") or {}).get("conditions") or ():
        if one["type"] == "Available":
            return "True" if one["status"] == "True" else f"{one['status']} ({one['reason']})"
    return UNKNOWN


PRINTERS: dict[str, tuple[Row, ...]] = {
    "pods": (_NAME, ("Ready", pod_cells.ready), ("Status", pod_cells.status_of), ("Restarts", pod_cells.restarts), _AGE,
             ("IP", pod_cells.address, 1), ("Node", _get("spec", "nodeName"), 1),
             ("Nominated Node", _get("status", "nominatedNodeName"), 1), ("Readiness Gates", pod_cells.gates, 1)),
    "nodes": (_NAME, ("Status", _node_status), ("Roles", _node_roles), _AGE, ("Version", _node_info("kubeletVersion")),
              ("Internal-IP", _node_address("InternalIP"), 1), ("External-IP", _node_address("ExternalIP"), 1),
              ("OS-Image", _node_info("osImage"), 1), ("Kernel-Version", _node_info("kernelVersion"), 1),
              ("Container-Runtime", _node_info("containerRuntimeVersion"), 1)),
    "services": (_NAME, ("Type", _get("spec", "type")), ("Cluster-IP", _get("spec", "clusterIP")),
                 ("External-IP", _external_ip), ("Port(s)", _service_ports), _AGE,
                 ("Selector", lambda o: _pairs(o["spec"].get("selector")), 1)),
    "apiservices.apiregistration.k8s.io": (_NAME, ("Service", _api_service), ("Available", _available), _AGE),
    "namespaces": (_NAME, ("Status", _get("status", "phase")), _AGE),
    "endpoints": (_NAME, ("Endpoints", _endpoints), _AGE),
    "endpointslices.discovery.k8s.io": (_NAME, ("AddressType", _get("addressType")), ("Ports", _slice_ports),
                                        ("Endpoints", _slice_endpoints), _AGE),
    "configmaps": (_NAME, ("Data", _data_count, 0, "integer"), _AGE),
    "secrets": (_NAME, ("Type", _get("type")), ("Data", _data_count, 0, "integer"), _AGE),
    "serviceaccounts": (_NAME, ("Secrets", _count("secrets"), 0, "integer"), _AGE),
    "events": (("Last Seen", _last_seen), ("Type", _get("type")), ("Reason", _get("reason")),
               ("Object", _event_object), ("Subobject", _get("involvedObject", "fieldPath", default=""), 1),
               ("Source", lambda e: (e.get("source") or {}).get("component") or e.get("reportingComponent", ""), 1),
               ("Message", lambda e: str(e.get("message", "")).strip()), ("First Seen", _first_seen, 1),
               ("Count", _number("count"), 1, "integer"), ("Name", lambda o: o["metadata"]["name"], 1)),
    "deployments.apps": (
        _NAME, ("Ready", _ready_of), ("Up-to-date", _number("status", "updatedReplicas"), 0, "integer"),
        ("Available", _number("status", "availableReplicas"), 0, "integer"), _AGE, _CONTAINERS, _IMAGES, _SELECTOR),
    "replicasets.apps": _REPLICAS,
    "replicationcontrollers": _REPLICAS,
    "daemonsets.apps": (_NAME, ("Desired", _number("status", "desiredNumberScheduled"), 0, "integer"),
                        ("Current", _number("status", "currentNumberScheduled"), 0, "integer"),
                        ("Ready", _number("status", "numberReady"), 0, "integer"),
                        ("Up-to-date", _number("status", "updatedNumberScheduled"), 0, "integer"),
                        ("Available", _number("status", "numberAvailable"), 0, "integer"),
                        ("Node Selector", lambda o: _pairs(o["spec"]["template"]["spec"].get("nodeSelector"))), _AGE,
                        _CONTAINERS, _IMAGES, _SELECTOR),
    "statefulsets.apps": (_NAME, ("Ready", _ready_of), _AGE, _CONTAINERS, _IMAGES),
    "controllerrevisions.apps": (
        _NAME, ("Controller", _controller),
        ("Revision", _number("revision"), 0, "integer"), _AGE),
    "jobs.batch": (_NAME, ("Status", _job_status), ("Completions", _completions), ("Duration", _job_duration), _AGE,
                   _CONTAINERS, _IMAGES, _SELECTOR),
    "cronjobs.batch": (_NAME, ("Schedule", _get("spec", "schedule")), ("Timezone", _get("spec", "timeZone")),
                       ("Suspend", lambda o: str(o["spec"].get("suspend", False))),
                       ("Active", _count("status", "active"), 0, "integer"),
                       ("Last Schedule", _last_schedule),
                       _AGE),
    "networkpolicies.networking.k8s.io": (
        _NAME, ("Pod-Selector", lambda o: selector_text(o["spec"].get("podSelector") or {}) or NONE), _AGE),
    "ingresses.networking.k8s.io": (_NAME, ("Class", _get("spec", "ingressClassName")), ("Hosts", _ingress_hosts),
                                    ("Address", _ingress_address),
                                    ("Ports", lambda o: "80, 443" if o["spec"].get("tls") else "80"), _AGE),
    "ingressclasses.networking.k8s.io": (
        _NAME, ("Controller", _get("spec", "controller")),
        ("Parameters", lambda o: f"{p.get('kind')}.{p.get('apiGroup')}/{p.get('name')}"
         if (p := o["spec"].get("parameters")) else NONE), _AGE),
    "leases.coordination.k8s.io": (_NAME, ("Holder", _get("spec", "holderIdentity", default="")), _AGE),
    "priorityclasses.scheduling.k8s.io": (_NAME, ("Value", _number("value"), 0, "integer"),
                                          ("Global-Default", lambda o: str(o.get("globalDefault", False)).lower()),
                                          _AGE),
    "storageclasses.storage.k8s.io": (
        ("Name", _class), ("Provisioner", _get("provisioner")), ("ReclaimPolicy", _get("reclaimPolicy")),
        ("VolumeBindingMode", _get("volumeBindingMode")),
        ("AllowVolumeExpansion", lambda o: str(o.get("allowVolumeExpansion", False)).lower()), _AGE),
    "persistentvolumes": (
        _NAME, ("Capacity", _get("spec", "capacity", "storage", default="")),
        ("Access Modes", lambda o: _modes(o["spec"].get("accessModes"))),
        ("Reclaim Policy", _get("spec", "persistentVolumeReclaimPolicy", default="")),
        ("Status", _get("status", "phase")),
        ("Claim", lambda o: f"{c.get('namespace')}/{c.get('name')}" if (c := o["spec"].get("claimRef")) else ""),
        ("StorageClass", _get("spec", "storageClassName", default="")),
        ("Reason", _get("status", "reason", default="")), _AGE),
    "persistentvolumeclaims": (
        _NAME, ("Status", _get("status", "phase")), ("Volume", _get("spec", "volumeName", default="")),
        ("Capacity", _get("status", "capacity", "storage", default="")),
        ("Access Modes", lambda o: _modes((o.get("status") or {}).get("accessModes"))),
        ("StorageClass", _get("spec", "storageClassName", default="")), _AGE),
    "poddisruptionbudgets.policy": (
        _NAME, ("Min Available", _get("spec", "minAvailable", default="N/A")),
        ("Max Unavailable", _get("spec", "maxUnavailable", default="N/A")),
        ("Allowed Disruptions", _number("status", "disruptionsAllowed"), 0, "integer"), _AGE),
    "horizontalpodautoscalers.autoscaling": (
        _NAME, ("Reference", lambda o: f"{(r := o['spec'].get('scaleTargetRef') or {}).get('kind')}/{r.get('name')}"),
        ("Targets", _targets), ("MinPods", _get("spec", "minReplicas", default="<unset>")),
        ("MaxPods", _number("spec", "maxReplicas"), 0, "integer"),
        ("Replicas", _number("status", "currentReplicas"), 0, "integer"), _AGE),
    "rolebindings.rbac.authorization.k8s.io": (_NAME, ("Role", _role), _AGE, *_BINDING),
    "clusterrolebindings.rbac.authorization.k8s.io": (_NAME, ("Role", _role), _AGE, *_BINDING),
}

_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _modes(modes: list[str] | None) -> str:
    return ",".join(_MODES.get(m, m) for m in modes or ())
