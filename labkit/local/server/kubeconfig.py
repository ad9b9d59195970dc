"""The kubeconfig that listClusterAdminCredential returns."""

from __future__ import annotations

import base64

import yaml


def kubeconfig(
    *, cluster: str, resource_group: str, fqdn: str, admin: bool, ca_pem: bytes, token: str, proxy: str
) -> bytes:
    """A kubeconfig as AKS words it, with one line more: the proxy that leads to the lab.

    Args:
        cluster: the cluster's name.
        resource_group: its resource group; part of the user's name, as on AKS.
        fqdn: the API's name.
        admin: the clusterAdmin credential rather than the clusterUser one.
        ca_pem: who signed the API's certificate.
        token: the bearer token.
        proxy: the lab's loopback port as http://127.0.0.1:PORT.
    """
    kind = "clusterAdmin" if admin else "clusterUser"
    user = f"{kind}_{resource_group}_{cluster}"
    context = cluster  # `az aks get-credentials --admin` appends "-admin" itself
    server = {
        "certificate-authority-data": base64.b64encode(ca_pem).decode(),
        "server": f"https://{fqdn}:443",
        "proxy-url": proxy,
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "current-context": context,
        "clusters": [{"name": cluster, "cluster": server}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
        "users": [{"name": user, "user": {"token": token}}],
    }
    return yaml.safe_dump(config, sort_keys=False).encode()
