"""Plans for clusters: create one, fetch its credentials, delete it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from labkit.azure.arm import Azure, Resource
from labkit.azure.cost import estimate
from labkit.azure.settings import ClusterSettings
from labkit.azure.tags import RUN_TAG, tags
from labkit.errors import AzureError
from labkit.kube import kubeconfig
from labkit.plan import Evidence, Log, Plan, Step


def create(azure: Azure, settings: ClusterSettings, version: str | None = None) -> Plan:
    """The plan that creates a resource group and a cluster in it.

    Args:
        azure: the subscription.
        settings: what to create; without tags it gets the usual ones.
        version: the version that will be chosen, for the twin; None where it is not known yet.
    """
    tagged = settings if settings.tags else replace(settings, tags=tags())
    policy = ("`--network-policy calico` lets Calico decide about the cluster's traffic; AKS installs it by "
              "its operator, in the iptables data plane." if settings.network_policy == "calico" else
              "Without a network policy there is no Calico: what remains is Azure CNI and kube-proxy.")
    return Plan(f"create-{settings.name}", f"Create the cluster {settings.name}", (
        _group_step(azure, tagged),
        Step(
            id="cluster", title=f"Create the cluster {settings.name}",
            why=f"`--network-plugin azure` gives pods addresses of the VNet. {policy}",
            without="there is no cluster.",
            command=tagged.command(version),
            apply=lambda log: _create_cluster(azure, tagged, log),
            verify=lambda: cluster_is_up(azure.cluster(settings.resource_group, settings.name), settings),
            revert=lambda log: azure.delete_cluster(settings.resource_group, settings.name, log),
            revert_command=f"az aks delete --name {settings.name} "
                           f"--resource-group {settings.resource_group} --yes",
            hint="Azure says what is wrong in its message; `lab.preflight()` checks what it can beforehand.",
        ),
    ), note=f"On Azure this costs {estimate(settings).for_hours(2)}.")


def get_credentials(azure: Azure, settings: ClusterSettings, path: Path) -> Plan:
    """The plan that backs up the kubeconfig and merges the cluster's credentials into it.

    Args:
        azure: the subscription.
        settings: the cluster.
        path: the kubeconfig file.
    """
    context = settings.context

    def apply(log: Log) -> None:
        fetched = kubeconfig.parse(azure.credentials(settings.resource_group, settings.name))
        new = kubeconfig.admin(fetched, context)
        existing = kubeconfig.load(path)
        if copy := kubeconfig.back_up(path):
            log(f"{path} is backed up as {copy.name}")
        kubeconfig.write(path, kubeconfig.merge(existing, new))
        log(f'merged "{context}" as current context in {path}')

    def verify() -> Evidence:
        config = kubeconfig.load(path)
        if config.get("current-context") != context:
            current = config.get("current-context") or "unset"
            return Evidence(False, f"the current context of {path} is {current}")
        fresh = kubeconfig.parse(azure.credentials(settings.resource_group, settings.name))
        same = all(entry in (config.get(section) or []) for section in ("clusters", "users")
                   for entry in fresh.get(section) or [])
        return Evidence(same, f"{path} holds {'' if same else 'old '}credentials of {context}")

    return Plan("get-credentials", f"Let kubectl reach {settings.name}", (Step(
        id="credentials", title="Merge the cluster's credentials into the kubeconfig",
        why="kubectl finds the cluster, and who you are, in its kubeconfig. What was in the file stays, and "
            "a copy of it is made first.",
        without="kubectl talks to whatever cluster it talked to before, or to none.",
        command=f'cp "{path}" "{path}.$(date +%s).backup"\n'
                f"az aks get-credentials --resource-group {settings.resource_group} --name {settings.name} "
                "--admin --overwrite-existing",
        apply=apply, verify=verify, revert=lambda log: forget(path, context, log),
        revert_command=f"kubectl config delete-context {context}",
    ),))


def delete(azure: Azure, settings: tuple[ClusterSettings, ...], path: Path | None) -> Plan:
    """The plan that deletes clusters, their group and their contexts.

    Args:
        azure: the subscription.
        settings: the clusters, all of one resource group.
        path: the kubeconfig file, or None.
    """
    group = settings[0].resource_group
    steps = [Step(
        id=f"cluster-{s.name}", title=f"Delete the cluster {s.name}",
        why="Azure bills nodes, disks, load balancer and addresses until they are gone.",
        without="the cluster goes on costing money.",
        command=f"az aks delete --name {s.name} --resource-group {group} --yes",
        apply=lambda log, s=s: azure.delete_cluster(group, s.name, log),  # type: ignore[misc]
        verify=lambda s=s: _gone(azure.cluster(group, s.name), f"the cluster {s.name}"),  # type: ignore[misc]
        timeout=60,
    ) for s in settings]
    steps.append(Step(
        id="group", title=f"Delete the resource group {group}",
        why="it holds all that the course made, and nothing else.", without="an empty group stays behind.",
        command=f"az group delete --resource-group {group} --yes",
        apply=lambda log: _delete_group(azure, group, log),
        verify=lambda: _gone(azure.group(group), f"the group {group}"), timeout=60,
    ))
    if path is not None:
        contexts = [s.context for s in settings]
        steps.append(Step(
            id="contexts", title="Remove the contexts from the kubeconfig",
            why="they name clusters that no longer exist.",
            without="kubectl asks a server that is gone; `az aks delete` leaves them too.",
            command="\n".join(f"kubectl config delete-context {c}" for c in contexts),
            apply=lambda log: _forget_all(path, contexts, log),
            verify=lambda: _no_contexts(path, contexts),
        ))
    return Plan("clean-up", "Remove what the course has made", tuple(steps))


def forget(path: Path, context: str, log: Log) -> None:
    """Remove a context from a kubeconfig file, if it is there."""
    config = kubeconfig.load(path)
    rest = kubeconfig.without(config, context)
    if rest != config:
        kubeconfig.write(path, rest)
        log(f"removed {context} from {path}")


def _forget_all(path: Path, contexts: list[str], log: Log) -> None:
    for context in contexts:
        forget(path, context, log)


def cluster_is_up(cluster: Resource | None, settings: ClusterSettings) -> Evidence:
    """Whether a cluster is there, running, and has the network that was asked for.

    Args:
        cluster: what Azure says of it.
        settings: what was asked for.
    """
    if cluster is None:
        return Evidence(False, f"there is no cluster {settings.name} in {settings.resource_group}")
    properties = cluster.get("properties", {})
    state = properties.get("provisioningState")
    power = (properties.get("powerState") or {}).get("code", "Running")
    network = properties.get("networkProfile") or {}
    policy = network.get("networkPolicy") or "none"
    said = (f"{settings.name} is {state}, {power}: Kubernetes {properties.get('kubernetesVersion')}, "
            f"network plugin {network.get('networkPlugin')}, policy {policy}")
    up = state == "Succeeded" and power == "Running"
    return Evidence(up and policy.lower() == settings.network_policy, said)


def _group_step(azure: Azure, settings: ClusterSettings) -> Step:
    group = settings.resource_group

    def create(log: Log) -> None:
        azure.create_group(group, settings.location, settings.tags)

    marks = " ".join(f"{key}={value}" for key, value in settings.tags.items())
    return Step(
        id="group", title=f"Create the resource group {group}",
        why="A group holds all that belongs together, so that all of it can be removed together. Its tags "
            "say whose it is and when it may go.",
        without="a cluster has nowhere to be.",
        command=f"az group create --name {group} --location {settings.location} --tags {marks}",
        apply=create,
        verify=lambda: _present(azure.group(group), f"the group {group}"),
        revert=lambda log: _delete_group(azure, group, log),
        revert_command=f"az group delete --resource-group {group} --yes",
    )


def _create_cluster(azure: Azure, settings: ClusterSettings, log: Log) -> None:
    existing = azure.cluster(settings.resource_group, settings.name)
    power = ((existing or {}).get("properties", {}).get("powerState") or {}).get("code")
    if power == "Stopped":
        azure.start_cluster(settings.resource_group, settings.name, log)
    else:
        azure.create_cluster(settings, log)


def _delete_group(azure: Azure, group: str, log: Log) -> None:
    """Delete a group only if it carries our tag: a learner's own group of the same name is not ours."""
    found = azure.group(group)
    if found is not None and RUN_TAG not in (found.get("tags") or {}):
        raise AzureError(f"The resource group {group} is not labkit's.",
                         f"it does not carry the tag {RUN_TAG}.",
                         "delete it by hand, if you mean it: `az group delete`.", code="NotOurs")
    azure.delete_group(group, log)


def _present(resource: Resource | None, said: str) -> Evidence:
    if resource is None:
        return Evidence(False, f"{said} does not exist")
    state = resource.get("properties", {}).get("provisioningState", "there")
    return Evidence(state == "Succeeded", f"{said} is {state}, in {resource.get('location')}")


def _gone(resource: Resource | None, said: str) -> Evidence:
    return Evidence(resource is None, f"{said} {'is gone' if resource is None else 'still exists'}")


def _no_contexts(path: Path, contexts: list[str]) -> Evidence:
    names = [c["name"] for c in kubeconfig.load(path).get("contexts") or []]
    left = [c for c in contexts if c in names]
    return Evidence(not left, f"{path} still has {', '.join(left)}" if left else f"{path} has none of them")
