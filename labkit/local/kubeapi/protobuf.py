"""Kubernetes' protobuf encoding, for what kubectl sends in it.

From 1.32 on kubectl's typed commands (`create deployment`, `create token`, `auth can-i`, `drain` ...) send
protobuf and know no way back to JSON. The table below has the messages of those commands, by field
number. A message or field that is not in the table is refused as a media type, so nothing is lost
in silence. Answers are always JSON, which every client accepts.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from labkit.local.client import Obj, timestamp

from . import errors

MAGIC = b"k8s\0"
MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

# name:number[=type]. Types: string where none is given, int, bool, bytes, map (of strings), bytesmap,
# quantities, time, "-" for what is ignored, or a message. "*" before a type: a list. "!" after it: a pointer,
# whose zero is kept; other zeros are what Go writes for a field that was left out.
_META = "metadata:1=ObjectMeta"
_MESSAGES = {
    "ObjectMeta": "name:1 generateName:2 namespace:3 selfLink:4=- uid:5 resourceVersion:6 generation:7=-"
                  " creationTimestamp:8=- deletionTimestamp:9=- deletionGracePeriodSeconds:10=- labels:11=map"
                  " annotations:12=map ownerReferences:13=*OwnerReference finalizers:14=*string managedFields:17=-",
    "OwnerReference": "kind:1 name:3 uid:4 apiVersion:5 controller:6=bool! blockOwnerDeletion:7=bool!",
    "LabelSelector": "matchLabels:1=map matchExpressions:2=*LabelSelectorRequirement",
    "LabelSelectorRequirement": "key:1 operator:2 values:3=*string",
    "ObjectReference": "kind:1 namespace:2 name:3 uid:4 apiVersion:5 resourceVersion:6 fieldPath:7",
    "LocalObjectReference": "name:1",
    "Namespace": f"{_META} spec:2=NamespaceSpec status:3=-",
    "NamespaceSpec": "finalizers:1=*string",
    "ConfigMap": f"{_META} data:2=map binaryData:3=bytesmap immutable:4=bool!",
    "Secret": f"{_META} data:2=bytesmap type:3 stringData:4=map immutable:5=bool!",
    "ServiceAccount": f"{_META} secrets:2=*ObjectReference imagePullSecrets:3=*LocalObjectReference"
                      " automountServiceAccountToken:4=bool!",
    "Service": f"{_META} spec:2=ServiceSpec status:3=-",
    "ServiceSpec": "ports:1=*ServicePort selector:2=map clusterIP:3 type:4 externalIPs:5=*string sessionAffinity:7"
                   " loadBalancerIP:8 loadBalancerSourceRanges:9=*string externalName:10 externalTrafficPolicy:11"
                   " healthCheckNodePort:12=int publishNotReadyAddresses:13=bool ipFamilyPolicy:17"
                   " clusterIPs:18=*string ipFamilies:19=*string allocateLoadBalancerNodePorts:20=bool!"
                   " loadBalancerClass:21 internalTrafficPolicy:22",
    "ServicePort": "name:1 protocol:2 port:3=int targetPort:4=IntOrString nodePort:5=int appProtocol:6",
    "Deployment": f"{_META} spec:2=DeploymentSpec status:3=-",
    "DeploymentSpec": "replicas:1=int! selector:2=LabelSelector template:3=PodTemplateSpec"
                      " strategy:4=DeploymentStrategy minReadySeconds:5=int revisionHistoryLimit:6=int! paused:7=bool"
                      " progressDeadlineSeconds:9=int!",
    "DeploymentStrategy": "type:1 rollingUpdate:2=RollingUpdate",
    "RollingUpdate": "maxUnavailable:1=IntOrString! maxSurge:2=IntOrString!",
    "PodTemplateSpec": f"{_META} spec:2=PodSpec",
    "PodSpec": "volumes:1=*Volume containers:2=*Container restartPolicy:3 terminationGracePeriodSeconds:4=int!"
               " activeDeadlineSeconds:5=int! dnsPolicy:6 nodeSelector:7=map serviceAccountName:8 serviceAccount:9"
               " nodeName:10 hostNetwork:11=bool hostPID:12=bool hostIPC:13=bool securityContext:14=PodSecurityContext"
               " imagePullSecrets:15=*LocalObjectReference hostname:16 subdomain:17 schedulerName:19"
               " initContainers:20=*Container automountServiceAccountToken:21=bool! tolerations:22=*Toleration"
               " hostAliases:23=*HostAlias priorityClassName:24 priority:25=int! dnsConfig:26=DNSConfig"
               " shareProcessNamespace:27=bool! readinessGates:28=*ReadinessGate enableServiceLinks:30=bool!"
               " preemptionPolicy:31 ephemeralContainers:34=*EphemeralContainer",
    "PodSecurityContext": "seLinuxOptions:1=Empty runAsUser:2=int! runAsNonRoot:3=bool! supplementalGroups:4=*int"
                          " fsGroup:5=int! runAsGroup:6=int! fsGroupChangePolicy:9 seccompProfile:10=SeccompProfile",
    "SeccompProfile": "type:1 localhostProfile:2",
    "HostAlias": "ip:1 hostnames:2=*string",
    "DNSConfig": "nameservers:1=*string searches:2=*string options:3=*DNSOption",
    "DNSOption": "name:1 value:2",
    "ReadinessGate": "conditionType:1",
    "EphemeralContainer": "ephemeralContainerCommon:1=Container targetContainerName:2",
    "Pod": f"{_META} spec:2=PodSpec status:3=-",
    "HorizontalPodAutoscaler": f"{_META} spec:2=AutoscalerSpec status:3=-",
    "AutoscalerSpec": "scaleTargetRef:1=ScaleTarget minReplicas:2=int! maxReplicas:3=int metrics:4=*Metric",
    "HorizontalPodAutoscaler autoscaling/v1": f"{_META} spec:2=AutoscalerSpecV1 status:3=-",
    "AutoscalerSpecV1": "scaleTargetRef:1=ScaleTarget minReplicas:2=int! maxReplicas:3=int"
                        " targetCPUUtilizationPercentage:4=int!",
    "ScaleTarget": "kind:1 name:2 apiVersion:3",
    "Metric": "type:1 resource:4=ResourceMetric",
    "ResourceMetric": "name:1 target:2=MetricTarget",
    "MetricTarget": "type:1 value:2=quantity averageValue:3=quantity averageUtilization:4=int!",
    "Toleration": "key:1 operator:2 value:3 effect:4 tolerationSeconds:5=int!",
    "Container": "name:1 image:2 command:3=*string args:4=*string workingDir:5 ports:6=*ContainerPort env:7=*EnvVar"
                 " resources:8=Resources volumeMounts:9=*VolumeMount livenessProbe:10=Probe readinessProbe:11=Probe"
                 " lifecycle:12=Lifecycle terminationMessagePath:13 imagePullPolicy:14"
                 " securityContext:15=SecurityContext stdin:16=bool stdinOnce:17=bool tty:18=bool"
                 " envFrom:19=*EnvFrom terminationMessagePolicy:20 startupProbe:22=Probe",
    "ContainerPort": "name:1 hostPort:2=int containerPort:3=int protocol:4 hostIP:5",
    "SecurityContext": "capabilities:1=Capabilities privileged:2=bool! seLinuxOptions:3=Empty runAsUser:4=int!"
                       " runAsNonRoot:5=bool! readOnlyRootFilesystem:6=bool! allowPrivilegeEscalation:7=bool!"
                       " runAsGroup:8=int! procMount:9 seccompProfile:10=SeccompProfile",
    "Capabilities": "add:1=*string drop:2=*string",
    "Probe": "handler:1=Handler initialDelaySeconds:2=int timeoutSeconds:3=int periodSeconds:4=int"
             " successThreshold:5=int failureThreshold:6=int terminationGracePeriodSeconds:7=int!",
    "Handler": "exec:1=Exec httpGet:2=HTTPGet tcpSocket:3=TCPSocket sleep:4=Sleep",
    "Exec": "command:1=*string",
    "HTTPGet": "path:1 port:2=IntOrString host:3 scheme:4 httpHeaders:5=*NameValue",
    "NameValue": "name:1 value:2",
    "TCPSocket": "port:1=IntOrString host:2",
    "Sleep": "seconds:1=int",
    "Lifecycle": "postStart:1=Handler preStop:2=Handler",
    "EnvVar": "name:1 value:2 valueFrom:3=EnvVarSource",
    "EnvVarSource": "fieldRef:1=FieldRef resourceFieldRef:2=ResourceRef configMapKeyRef:3=KeyRef secretKeyRef:4=KeyRef",
    "FieldRef": "apiVersion:1 fieldPath:2",
    "ResourceRef": "containerName:1 resource:2 divisor:3=quantity",
    "KeyRef": "localObjectReference:1=LocalObjectReference key:2 optional:3=bool!",
    "EnvFrom": "prefix:1 configMapRef:2=EnvFromRef secretRef:3=EnvFromRef",
    "EnvFromRef": "localObjectReference:1=LocalObjectReference optional:2=bool!",
    "Resources": "limits:1=quantities requests:2=quantities",
    "Volume": "name:1 volumeSource:2=VolumeSource",
    "VolumeSource": "hostPath:1=HostPath emptyDir:2=EmptyDir! secret:6=SecretVolume persistentVolumeClaim:10=Claim"
                    " downwardAPI:16=DownwardVolume configMap:19=ConfigMapVolume projected:26=Projected",
    "HostPath": "path:1 type:2",
    "EmptyDir": "medium:1 sizeLimit:2=quantity",
    "SecretVolume": "secretName:1 items:2=*KeyToPath defaultMode:3=int! optional:4=bool!",
    "ConfigMapVolume": "localObjectReference:1=LocalObjectReference items:2=*KeyToPath defaultMode:3=int!"
                       " optional:4=bool!",
    "KeyToPath": "key:1 path:2 mode:3=int!",
    "Claim": "claimName:1 readOnly:2=bool",
    "DownwardVolume": "items:1=*DownwardFile defaultMode:2=int!",
    "DownwardFile": "path:1 fieldRef:2=FieldRef resourceFieldRef:3=ResourceRef mode:4=int!",
    "Projected": "sources:1=*Projection defaultMode:2=int!",
    "Projection": "secret:1=ConfigMapVolume downwardAPI:2=DownwardVolume configMap:3=ConfigMapVolume"
                  " serviceAccountToken:4=TokenProjection",
    "TokenProjection": "audience:1 expirationSeconds:2=int! path:3",
    "VolumeMount": "name:1 readOnly:2=bool mountPath:3 subPath:4 mountPropagation:5 subPathExpr:6",
    "Empty": "",
    "Job": f"{_META} spec:2=JobSpec status:3=-",
    "JobSpec": "parallelism:1=int! completions:2=int! activeDeadlineSeconds:3=int! selector:4=LabelSelector"
               " manualSelector:5=bool! template:6=PodTemplateSpec backoffLimit:7=int! ttlSecondsAfterFinished:8=int!"
               " completionMode:9 suspend:10=bool!",
    "CronJob": f"{_META} spec:2=CronJobSpec status:3=-",
    "CronJobSpec": "schedule:1 startingDeadlineSeconds:2=int! concurrencyPolicy:3 suspend:4=bool!"
                   " jobTemplate:5=JobTemplate"
                   " successfulJobsHistoryLimit:6=int! failedJobsHistoryLimit:7=int! timeZone:8",
    "JobTemplate": f"{_META} spec:2=JobSpec",
    "TokenRequest": f"{_META} spec:2=TokenRequestSpec status:3=-",
    "TokenRequestSpec": "audiences:1=*string boundObjectRef:3=BoundObjectReference expirationSeconds:4=int!",
    "BoundObjectReference": "kind:1 apiVersion:2 name:3 uid:4",
    "TokenReview": f"{_META} spec:2=TokenReviewSpec status:3=-",
    "TokenReviewSpec": "token:1 audiences:2=*string",
    "SelfSubjectReview": f"{_META} status:2=-",
    "Eviction": f"{_META} deleteOptions:2=DeleteOptions",
    "DeleteOptions": "gracePeriodSeconds:1=int! preconditions:2=Preconditions orphanDependents:3=bool!"
                     " propagationPolicy:4 dryRun:5=*string",
    "Preconditions": "uid:1 resourceVersion:2",
    "SelfSubjectAccessReview": f"{_META} spec:2=AccessReviewSpec status:3=-",
    "SubjectAccessReview": f"{_META} spec:2=SubjectAccessReviewSpec status:3=-",
    "AccessReviewSpec": "resourceAttributes:1=ResourceAttributes nonResourceAttributes:2=NonResourceAttributes",
    "SubjectAccessReviewSpec": "resourceAttributes:1=ResourceAttributes nonResourceAttributes:2=NonResourceAttributes"
                               " user:3 groups:4=*string uid:6",
    "ResourceAttributes": "namespace:1 verb:2 group:3 version:4 resource:5 subresource:6 name:7",
    "NonResourceAttributes": "path:1 verb:2",
    "SelfSubjectRulesReview": f"{_META} spec:2=RulesReviewSpec status:3=-",
    "RulesReviewSpec": "namespace:1",
    "Role": f"{_META} rules:2=*PolicyRule",
    "ClusterRole": f"{_META} rules:2=*PolicyRule",
    "PolicyRule": "verbs:1=*string apiGroups:2=*string resources:3=*string resourceNames:4=*string"
                  " nonResourceURLs:5=*string",
    "RoleBinding": f"{_META} subjects:2=*Subject roleRef:3=RoleRef",
    "ClusterRoleBinding": f"{_META} subjects:2=*Subject roleRef:3=RoleRef",
    "Subject": "kind:1 apiGroup:2 name:3 namespace:4",
    "RoleRef": "apiGroup:1 kind:2 name:3",
    "ResourceQuota": f"{_META} spec:2=ResourceQuotaSpec status:3=-",
    "ResourceQuotaSpec": "hard:1=quantities scopes:2=*string",
    "PodDisruptionBudget": f"{_META} spec:2=PodDisruptionBudgetSpec status:3=-",
    "PodDisruptionBudgetSpec": "minAvailable:1=IntOrString! selector:2=LabelSelector maxUnavailable:3=IntOrString!",
    "PriorityClass": f"{_META} value:2=int globalDefault:3=bool description:4 preemptionPolicy:5",
    "Ingress": f"{_META} spec:2=IngressSpec status:3=-",
    "IngressSpec": "defaultBackend:1=IngressBackend tls:2=*IngressTLS rules:3=*IngressRule ingressClassName:4",
    "IngressTLS": "hosts:1=*string secretName:2",
    "IngressRule": "host:1 ingressRuleValue:2=IngressRuleValue",
    "IngressRuleValue": "http:1=IngressHTTP",
    "IngressHTTP": "paths:1=*IngressPath",
    "IngressPath": "path:1 backend:2=IngressBackend pathType:3",
    "IngressBackend": "service:4=IngressService",
    "IngressService": "name:1 port:2=IngressPort",
    "IngressPort": "name:1 number:2=int",
}
_INLINE = frozenset({"volumeSource", "ingressRuleValue", "handler", "localObjectReference",
                     "ephemeralContainerCommon"})
"""Go embeds these; in JSON their fields belong to the object around them."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    type: str
    repeated: bool
    pointer: bool


@cache
def _fields(message: str) -> dict[int, _Field]:
    out = {}
    for spec in _MESSAGES[message].split():
        head, _, type_ = spec.partition("=")
        name, _, number = head.partition(":")
        out[int(number)] = _Field(name, type_.strip("*!") or "string", type_.startswith("*"), type_.endswith("!"))
    return out


def decode(body: bytes) -> Obj:
    """An object from its protobuf envelope.

    Raises:
        ApiError: 415 for a message or a field that is not in the table, 400 for bytes that are no message.
    """
    if not body.startswith(MAGIC):
        raise errors.bad_request("the object provided is unrecognized: it has no protobuf prefix")
    try:
        about: Obj = {}
        raw = b""
        for number, value in _scan(body[4:]):
            if number == 1:
                about = {{1: "apiVersion", 2: "kind"}[n]: v.decode() for n, v in _scan(value)}
            elif number == 2:
                raw = value
        kind = about.get("kind", "")
        of_version = f"{kind} {about.get('apiVersion')}"        # of a kind that has other fields there
        message = of_version if of_version in _MESSAGES else kind
        if message not in _MESSAGES:
            raise errors.unsupported_media_type(("application/json", "application/yaml"))
        return {**about, **_message(raw, message)}
    except (IndexError, ValueError, AttributeError, TypeError) as e:
        raise errors.bad_request(f"the object provided is unrecognized: malformed protobuf: {e}") from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _scan(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, int or bytes) of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
                yield tag >> 3, value - (1 << 64) if value >> 63 else value
            case 2:
                size, at = _varint(data, at)
                if at + size > len(data):
                    raise ValueError("unexpected EOF")
                yield tag >> 3, data[at:at + size]
                at += size
            case other:
                raise ValueError(f"wire type {other}")


def _message(data: bytes, message: str) -> Obj:
    out: Obj = {}
    fields = _fields(message)
    for number, raw in _scan(data):
        field = fields.get(number)
        if field is None:
            raise errors.unsupported_media_type(("application/json", "application/yaml"))
        if field.type == "-":
            continue
        value = _value(raw, field.type)
        if field.repeated:
            out.setdefault(field.name, []).append(value)
        elif field.type in ("map", "bytesmap", "quantities"):
            out.setdefault(field.name, {}).update(value)
        elif field.name in _INLINE:
            out.update(value)
        elif field.pointer or (value not in ("", 0, False, None) and value != {}):
            out[field.name] = value
    return out


def _value(raw: Any, type_: str) -> Any:
    match type_:
        case "string":
            return raw.decode()
        case "int":
            return int(raw)
        case "bool":
            return bool(raw)
        case "bytes":
            return base64.b64encode(raw).decode()
        case "map" | "bytesmap" | "quantities":
            pair = {1: b"", 2: b"", **dict(_scan(raw))}
            value = pair[2].decode() if type_ == "map" else base64.b64encode(pair[2]).decode() \
                if type_ == "bytesmap" else dict(_scan(pair[2])).get(1, b"").decode()
            return {pair[1].decode(): value}
        case "time":
            return timestamp(dict(_scan(raw)).get(1, 0))
        case "quantity":
            return dict(_scan(raw)).get(1, b"").decode()
        case "IntOrString":
            parts = dict(_scan(raw))
            return parts.get(3, b"").decode() if parts.get(1) else parts.get(2, 0)
    return _message(raw, type_)
