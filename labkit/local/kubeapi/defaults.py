"""What Kubernetes fills in where a manifest is silent. Pure: each function changes the copy it is given."""

from __future__ import annotations

from typing import Any

from labkit.local.client import Obj


def pod_spec(spec: Obj) -> None:
    """A pod's, or a pod template's, spec."""
    put = spec.setdefault
    put("restartPolicy", "Always")
    put("terminationGracePeriodSeconds", 30)
    put("dnsPolicy", "ClusterFirst")
    put("securityContext", {})
    put("schedulerName", "default-scheduler")
    if spec.get("serviceAccountName"):
        put("serviceAccount", spec["serviceAccountName"])
    elif spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    for key in ("containers", "initContainers"):
        for one in spec.get(key) or ():
            if isinstance(one, dict):
                container(one, host_network=bool(spec.get("hostNetwork")))
    for one in spec.get("volumes") or ():
        if isinstance(one, dict):
            _volume(one)


def requests(spec: Obj) -> None:
    """A container asks for no less than it is limited to. Of pods alone: templates stay as they are written."""
    for key in ("containers", "initContainers"):
        for one in spec.get(key) or ():
            if limits := (one.get("resources") or {}).get("limits"):
                one["resources"]["requests"] = {**limits, **(one["resources"].get("requests") or {})}


def container(c: Obj, *, host_network: bool = False) -> None:
    """One container."""
    image = str(c.get("image") or "")
    if "imagePullPolicy" not in c:
        tag = image.rpartition("/")[2].partition(":")[2]
        c["imagePullPolicy"] = "Always" if tag in ("", "latest") and "@" not in image else "IfNotPresent"
    c.setdefault("terminationMessagePath", "/dev/termination-log")
    c.setdefault("terminationMessagePolicy", "File")
    c.setdefault("resources", {})
    for port in c.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if host_network and "containerPort" in port:
            port.setdefault("hostPort", port["containerPort"])
    for env in c.get("env") or ():
        ref = (env.get("valueFrom") or {}).get("fieldRef")
        if ref is not None:
            ref.setdefault("apiVersion", "v1")
    for key in ("livenessProbe", "readinessProbe", "startupProbe"):
        if c.get(key):
            _probe(c[key])
    for hook in (c.get("lifecycle") or {}).values():
        if isinstance(hook, dict) and hook.get("httpGet"):
            hook["httpGet"].setdefault("path", "/")
            hook["httpGet"].setdefault("scheme", "HTTP")


def _probe(probe: Obj) -> None:
    for key, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        if not probe.get(key):
            probe[key] = value
    if get := probe.get("httpGet"):
        get.setdefault("path", "/")
        get.setdefault("scheme", "HTTP")


_MODES = {"secret": 420, "configMap": 420, "projected": 420, "downwardAPI": 420}


def _volume(volume: Obj) -> None:
    if len(volume) == 1:
        volume["emptyDir"] = {}
    for key, mode in _MODES.items():
        if isinstance(source := volume.get(key), dict):
            source.setdefault("defaultMode", mode)
    if isinstance(path := volume.get("hostPath"), dict):
        path.setdefault("type", "")
    for source in (volume.get("projected") or {}).get("sources") or ():
        if token := source.get("serviceAccountToken"):
            token.setdefault("expirationSeconds", 3600)


def service(obj: Obj, minor: int) -> None:
    """A service; addresses and node ports are allocated apart."""
    spec = obj.setdefault("spec", {})
    put = spec.setdefault
    put("type", "ClusterIP")
    put("sessionAffinity", "None")
    if spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {"clientIP": {"timeoutSeconds": 10800}})
    external = spec["type"] == "ExternalName"
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if "port" in port and port.get("targetPort") in (None, "", 0):
            port["targetPort"] = port["port"]
    if spec["type"] in ("NodePort", "LoadBalancer"):
        put("externalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer" and minor >= 22:
        put("allocateLoadBalancerNodePorts", True)
    if not external:
        if minor >= 20:
            put("ipFamilies", ["IPv4"])
            put("ipFamilyPolicy", "SingleStack")
        if minor >= 22:
            put("internalTrafficPolicy", "Cluster")
    obj.setdefault("status", {"loadBalancer": {}})


def deployment(spec: Obj) -> None:
    """A deployment's spec."""
    _default(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    strategy = spec.setdefault("strategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _default(strategy.setdefault("rollingUpdate", {}), maxSurge="25%", maxUnavailable="25%")


def replica_set(spec: Obj) -> None:
    """A replica set's spec, or a replication controller's."""
    _default(spec, replicas=1)


def daemon_set(spec: Obj, minor: int) -> None:
    """A daemon set's spec."""
    _default(spec, revisionHistoryLimit=10)
    strategy = spec.setdefault("updateStrategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        _default(rolling, maxUnavailable=1)
        if minor >= 22:
            _default(rolling, maxSurge=0)


def stateful_set(spec: Obj) -> None:
    """A stateful set's spec."""
    _default(spec, replicas=1, revisionHistoryLimit=10, podManagementPolicy="OrderedReady")
    strategy = spec.setdefault("updateStrategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _default(strategy.setdefault("rollingUpdate", {}), partition=0)


def job(spec: Obj, minor: int) -> None:
    """A job's spec."""
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    _default(spec, parallelism=1, backoffLimit=6)
    if minor >= 22:
        _default(spec, completionMode="NonIndexed", suspend=False)


def cron_job(spec: Obj) -> None:
    """A cron job's spec."""
    _default(spec, concurrencyPolicy="Allow", suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)


def network_policy(spec: Obj) -> None:
    """A network policy's spec."""
    spec.setdefault("podSelector", {})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for rule in [*(spec.get("ingress") or ()), *(spec.get("egress") or ())]:
        for port in rule.get("ports") or ():
            port.setdefault("protocol", "TCP")


def _default(target: Obj, **values: Any) -> None:
    for key, value in values.items():
        if target.get(key) is None:
            target[key] = value


def autoscaler(spec: Obj) -> None:
    """At least one pod, and the processors at 80 %."""
    spec.setdefault("minReplicas", 1)
    if not spec.get("metrics"):
        spec["metrics"] = [{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]
