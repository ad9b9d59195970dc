"""What the end-to-end tests share: a cluster by the Azure SDK, workloads by the Kubernetes client."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from azure.core.credentials import AccessToken
from azure.mgmt.containerservice import ContainerServiceClient
from azure.mgmt.resource.resources import ResourceManagementClient
from kubernetes import client, config

from labkit.local.paths import LabPaths

AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.47"


class LabCredential:
    """A token from the lab's managed-identity endpoint, as DefaultAzureCredential would fetch it."""

    def __init__(self, info: Any) -> None:
        self._info = info

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        import ssl
        import urllib.request

        request = urllib.request.Request(
            f"{self._info.identity_endpoint}?resource=https://management.core.windows.net/&api-version=2019-08-01",
            headers={"X-IDENTITY-HEADER": self._info.identity_header},
        )
        with urllib.request.urlopen(
            request, context=ssl.create_default_context(cafile=self._info.ca_file)
        ) as answer:
            body = json.load(answer)
        return AccessToken(body["access_token"], int(body["expires_on"]))


def azure_clients(info: Any) -> tuple[ResourceManagementClient, ContainerServiceClient]:
    arguments: dict[str, Any] = {
        "base_url": info.url,
        "credential_scopes": [f"{info.url}/.default"],
        "connection_verify": info.ca_file,
        "polling_interval": 0.2,
    }
    credential: Any = LabCredential(info)
    return (
        ResourceManagementClient(credential, info.subscription, **arguments),
        ContainerServiceClient(credential, info.subscription, **arguments),
    )


@dataclass
class TestCluster:
    """A cluster under test; `delete_cluster` or leaving a `with` closes its connections."""

    __test__ = False
    group: str
    name: str
    kubeconfig: Path
    groups: ResourceManagementClient
    aks: ContainerServiceClient
    paths: LabPaths
    info: Any

    def __post_init__(self) -> None:
        self.api_client = config.new_client_from_config(str(self.kubeconfig))
        self.core = client.CoreV1Api(self.api_client)
        self.apps = client.AppsV1Api(self.api_client)
        self.custom = client.CustomObjectsApi(self.api_client)

    def __enter__(self) -> TestCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.api_client.close()
        self.groups.close()
        self.aks.close()

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.kubeconfig), *words],
            input=stdin,
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout + ("" if check else done.stderr)

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(yaml.safe_dump(o) for o in objects))

    def nodes(self) -> list[str]:
        return sorted(n.metadata.name for n in self.core.list_node().items)

    def run_as(self, who: str, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """A command as an outside client."""
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.paths.netns('client', who)}", "--", *words],
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
        )

    @contextmanager
    def namespace(self) -> Iterator[str]:
        name = f"t-{uuid.uuid4().hex[:6]}"
        self.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
        try:
            yield name
        finally:
            self.core.delete_namespace(name)
            wait_for(
                lambda: name not in {n.metadata.name for n in self.core.list_namespace().items},
                "the namespace is gone",
            )

    def system_ready(self) -> bool:
        pods = self.core.list_pod_for_all_namespaces().items
        ready = [
            p
            for p in pods
            if any(c.type == "Ready" and c.status == "True" for c in p.status.conditions or [])
        ]
        return bool(pods) and len(ready) == len(pods) and any("coredns" in p.metadata.name for p in pods)


def create_cluster(
    info: Any,
    paths: LabPaths,
    folder: Path,
    *,
    name: str | None = None,
    policy: str = "calico",
    version: str = "1.20.2",
    count: int = 2,
    plugin: str = "azure",
) -> TestCluster:
    groups, aks = azure_clients(info)
    name = name or f"c{uuid.uuid4().hex[:6]}"
    group = f"rg-{name}"
    groups.resource_groups.create_or_update(group, {"location": "canadaeast"})
    parameters: dict[str, Any] = {
        "location": "canadaeast",
        "identity": {"type": "SystemAssigned"},
        "properties": {
            "dnsPrefix": name,
            "kubernetesVersion": version,
            "agentPoolProfiles": [
                {
                    "name": "nodepool1",
                    "count": count,
                    "vmSize": "Standard_D2s_v3",
                    "mode": "System",
                    "osType": "Linux",
                    "enableNodePublicIP": True,
                }
            ],
            "networkProfile": {
                "networkPlugin": plugin,
                **({"podCidr": "192.168.0.0/16"} if plugin == "none" else {}),
                **({"networkPolicy": policy} if policy != "none" else {}),
            },
        },
    }
    aks.managed_clusters.begin_create_or_update(group, name, parameters).result(180)
    credentials = aks.managed_clusters.list_cluster_admin_credentials(group, name)
    kubeconfig = folder / f"{name}.kubeconfig"
    kubeconfig.write_bytes(bytes(credentials.kubeconfigs[0].value))
    kubeconfig.chmod(0o600)
    cluster = TestCluster(group, name, kubeconfig, groups, aks, paths, info)

    def system() -> bool:
        """Ready, and the operator has come to making its pods: until then all that there are may be ready."""
        nodes = cluster.core.list_pod_for_all_namespaces(label_selector="k8s-app=calico-node").items
        return cluster.system_ready() and (policy != "calico" or bool(nodes))

    if plugin != "none":  # else nothing is ready before somebody brings a network
        wait_for(system, "all system pods are ready")
    return cluster


def delete_cluster(cluster: TestCluster) -> None:
    with cluster:
        cluster.groups.resource_groups.begin_delete(cluster.group).result(180)


def wait_for(holds: Callable[[], Any], what: str, timeout: float = 120, interval: float = 0.1) -> Any:
    """Poll until it holds; a failure says what was waited for and the last answer."""
    deadline, last = time.monotonic() + timeout, None
    while time.monotonic() < deadline:
        try:
            if last := holds():
                return last
        except (AssertionError, client.ApiException, subprocess.SubprocessError) as error:
            last = error
        time.sleep(interval)
    raise AssertionError(f"after {timeout} s still not: {what}; last: {last!r}")


def pod(
    name: str,
    namespace: str,
    *,
    node: str | None = None,
    image: str = AGNHOST,
    args: list[str] | None = None,
    labels: dict[str, str] | None = None,
    ready_port: int | None = None,
) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "main", "image": image}
    if args:
        container["args"] = args
    if ready_port:
        container["readinessProbe"] = {"tcpSocket": {"port": ready_port}, "periodSeconds": 1}
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 1}
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {"app": name}},
        "spec": spec,
    }


def service(
    name: str,
    namespace: str,
    *,
    app: str,
    kind: str = "ClusterIP",
    policy: str | None = None,
    ports: tuple[tuple[str, int, int], ...] = (("TCP", 80, 8080),),
) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "selector": {"app": app},
        "type": kind,
        "ports": [
            {"name": f"{proto.lower()}-{port}", "protocol": proto, "port": port, "targetPort": target}
            for proto, port, target in ports
        ],
    }
    if policy:
        spec["externalTrafficPolicy"] = policy
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
