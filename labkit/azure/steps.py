"""Plans for clusters: create one, fetch its credentials, delete it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from labkit.azure import states
from labkit.azure.arm import Azure
from labkit.azure.cost import estimate, meter
from labkit.azure.gc import gone
from labkit.azure.names import node_group
from labkit.azure.reading import Resource
from labkit.azure.refusals import local_accounts_disabled
from labkit.azure.settings import ClusterSettings
from labkit.azure.tags import EXPIRY_TAG, HOURS, OWNER_TAG, OWNER_VARIABLE, RUN_TAG, expired, owner, tags
from labkit.errors import AzureError, OperationInterruptedError
from labkit.kube import kubeconfig, kubelogin
from labkit.plan import Evidence, Log, Plan, Step
from labkit.student import VARIABLE as STUDENT


def create(azure: Azure, settings: ClusterSettings, version: str | None = None, *, hours: float = HOURS) -> Plan:
    """The plan that creates a resource group and a cluster in it.

    Args:
        azure: the subscription.
        settings: what to create; its tags come on top of the usual ones.
        version: the version that will be chosen, for the twin; None where it is not known yet.
        hours: after which the lab counts as forgotten.
    """
    tagged = replace(settings, tags=MappingProxyType({**tags(hours), **settings.tags}))
    policy = ("`--network-policy calico` lets Calico decide about the cluster's traffic; AKS installs it by "
              "its operator, in the iptables data plane." if settings.network_policy == "calico" else
              "Without a network policy there is no Calico: what remains is Azure CNI and kube-proxy.")

    def create_cluster(log: Log) -> None:
        with naming_what_stays(azure, tagged.resource_group):
            azure.create_cluster(tagged, log)

    return Plan(f"create-{settings.name}", f"Create the cluster {settings.name}", (
        _group_step(azure, tagged),
        Step(
            id="cluster", title=f"Create the cluster {settings.name}",
            why=f"`--network-plugin azure` gives pods addresses of the VNet. {policy}",
            without="there is no cluster.",
            command=tagged.command(version),
            apply=create_cluster,
            verify=lambda: cluster_is_up(azure.cluster(settings.resource_group, settings.name), settings),
            revert=lambda log: _delete_cluster(azure, settings, log),
            revert_command=f"az aks delete --name {settings.name} "
                           f"--resource-group {settings.resource_group} --yes",
            hint="Azure says what is wrong in its message; `lab.preflight()` checks what it can beforehand.",
        ),
    ), note=_what_is_made(tagged, version))


def get_credentials(azure: Azure, settings: ClusterSettings, path: Path, *, admin: bool = True,
                    login: str = "azurecli") -> Plan:
    """The plan that backs up the kubeconfig and merges the cluster's credentials into it.

    Args:
        azure: the subscription.
        settings: the cluster.
        path: the kubeconfig file.
        admin: the cluster's own administrator; False means who is logged in.
        login: how kubelogin gets its tokens, where the cluster asks for kubelogin.
    """
    context = settings.context if admin else settings.name

    def fetch() -> kubeconfig.Config:
        return kubeconfig.named(credentials(azure, settings, admin=admin, login=login), context)

    def apply(log: Log) -> None:
        new = fetch()
        if calls := kubelogin.programs(new):
            log(f"{settings.name} asks who you are: your token comes from {', '.join(calls)}")
        if copy := kubeconfig.back_up(path):
            log(f"{path} is backed up as {copy.name}")
        kubeconfig.update(path, lambda existing: kubeconfig.merge(existing, new))
        log(f'merged "{context}" as current context in {path}')

    def verify() -> Evidence:
        config = kubeconfig.load(path)
        if config.get("current-context") != context:
            current = config.get("current-context") or "unset"
            return Evidence(False, f"the current context of {path} is {current}")
        fresh = fetch()
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
                + ("--admin --overwrite-existing" if admin else
                   f"--format exec --overwrite-existing\nkubelogin convert-kubeconfig -l {login}"),
        apply=apply, verify=verify, revert=lambda log: _forget(path, [context], log),
        revert_command=f"kubectl config delete-context {context}",
    ),))


def credentials(azure: Azure, settings: ClusterSettings, *, admin: bool = True,
                login: str = "azurecli") -> kubeconfig.Config:
    """A kubeconfig that reaches a cluster: the administrator's, or where local accounts are disabled one's own.

    Args:
        azure: the subscription.
        settings: the cluster.
        admin: the cluster's own administrator; False means who is logged in.
        login: how kubelogin gets its tokens, where the cluster asks for kubelogin.

    Raises:
        KubeconfigError: kubelogin is needed, and missing or another program.
    """
    group, name = settings.resource_group, settings.name
    try:
        found = kubeconfig.parse(azure.credentials(group, name, admin=admin))
    except AzureError as error:
        if not admin or not local_accounts_disabled(error):
            raise
        found = kubeconfig.parse(azure.credentials(group, name, admin=False))
    found = kubelogin.with_login(found, login)
    kubelogin.check(found)
    return found


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
        apply=lambda log, s=s: _delete_cluster(azure, s, log),  # type: ignore[misc]
        verify=lambda s=s: _cluster_gone(azure, s),  # type: ignore[misc]
        timeout=300,
    ) for s in settings]
    steps.append(Step(
        id="group", title=f"Delete the resource group {group}",
        why="It holds all that the course made, and nothing else.", without="an empty group stays behind.",
        command=f"az group delete --resource-group {group} --yes",
        apply=lambda log: _delete_group(azure, group, log),
        verify=lambda: gone(azure, group), timeout=300,
    ))
    if path is not None:
        contexts = [s.context for s in settings]
        steps.append(Step(
            id="contexts", title="Remove the contexts from the kubeconfig",
            why="They name clusters that no longer exist.",
            without="kubectl asks a server that is gone; `az aks delete` leaves them too.",
            command="\n".join(f"kubectl config delete-context {c}" for c in contexts),
            apply=lambda log: _forget(path, contexts, log), verify=lambda: _no_contexts(path, contexts),
        ))
    return Plan("clean-up", "Remove what the course has made", tuple(steps))


def _forget(path: Path, contexts: list[str], log: Log) -> None:
    """Remove contexts from a kubeconfig file, if they are there."""
    for context in contexts:
        config = kubeconfig.load(path)
        if kubeconfig.without(config, context) != config:
            kubeconfig.update(path, lambda found, context=context: kubeconfig.without(found, context))  # type: ignore[misc]
            log(f"removed {context} from {path}")


def cluster_is_up(cluster: Resource | None, settings: ClusterSettings) -> Evidence:
    """Whether a cluster is there, running, and has the network that was asked for.

    Args:
        cluster: what Azure says of it.
        settings: what was asked for.
    """
    if cluster is None:
        return Evidence(False, f"there is no cluster {settings.name} in {settings.resource_group}")
    properties, state, power = cluster.get("properties") or {}, states.of(cluster), states.power(cluster)
    network = properties.get("networkProfile") or {}
    policy = network.get("networkPolicy") or "none"
    said = (f"{settings.name} is {state}, {power}: Kubernetes {properties.get('kubernetesVersion')}, "
            f"network plugin {network.get('networkPlugin')}, policy {policy}")
    up = state == "Succeeded" and power == "Running"
    return Evidence(up and policy.lower() == settings.network_policy, said)


def abort(azure: Azure, settings: ClusterSettings) -> Plan:
    """The plan that aborts what is under way on a cluster.

    Args:
        azure: the subscription.
        settings: the cluster.
    """
    group, name = settings.resource_group, settings.name

    def verify() -> Evidence:
        state = states.of(azure.cluster(group, name))
        return Evidence(state not in states.BUSY, f"{name} is {state or 'not there'}")

    return Plan("abort", f"Abort what is under way on {name}", (Step(
        id="abort", title=f"Abort the operation on {name}",
        why="An operation that nobody waits for goes on, and a cluster is paid for from its first node on.",
        without="it goes on to its end.",
        command=f"az aks operation-abort --resource-group {group} --name {name}",
        apply=lambda log: azure.abort(group, name, log), verify=verify, timeout=600,
        hint="what is there already stays and costs money: `lab.run(lab.clean_up())` deletes it.",
    ),))


def left_running(azure: Azure, group: str) -> str:
    """What is in a group, and in the groups of its machines, and costs money; in words.

    Args:
        azure: the subscription.
        group: the resource group.
    """
    try:
        clusters = azure.clusters(group) if azure.group(group) is not None else []
        inside = f"/resourcegroups/{group}/".lower()
        machines = [str(g["name"]) for g in azure.groups() if inside in str(g.get("managedBy") or "").lower()]
    except AzureError:
        return (f"What is in {group} could not be asked: look with `az aks list -o table`, it may cost money.")
    if not clusters and not machines:
        return ""
    found = [str(meter(cluster)) for cluster in clusters] + [f"the group of machines {name}" for name in machines]
    return f"Still there, and costing money: {'; '.join(found)}."


@contextlib.contextmanager
def naming_what_stays(azure: Azure, group: str) -> Iterator[None]:
    """An error on the way says what is still there and costs money.

    Args:
        azure: the subscription.
        group: the resource group.
    """
    try:
        yield
    except OperationInterruptedError:
        raise  # it says so itself, and whoever interrupts does not want to wait
    except AzureError as error:
        if left := left_running(azure, group):
            error.why = f"{error.why.rstrip('.')}. {left}"
            error.fix += " To stop paying: `lab.run(lab.clean_up())`."
        raise


def _what_is_made(settings: ClusterSettings, version: str | None) -> str:
    cost = estimate(settings)
    return (f"Made are the resource group {settings.resource_group} and the cluster {settings.name} in "
            f"{settings.location}: Kubernetes {version or 'of the newest version'}, {settings.node_count} × "
            f"{settings.node_vm_size}, control plane in the Free tier. On Azure this costs about "
            f"${cost.per_hour:.2f} an hour, {cost.for_hours(2)}, as long as it is there. Its tags say that it may go "
            f"after {settings.tags.get(EXPIRY_TAG, '(no time)')}; nothing deletes it by itself: notebook 10 does, or "
            "`labkit gc`.")


def _group_step(azure: Azure, settings: ClusterSettings) -> Step:
    group = settings.resource_group

    def create(log: Log) -> None:
        groups = azure.groups()
        old = expired(groups)
        if group in old:  # ours, of an earlier day, and used again: its time begins anew
            log(f"{group} had expired: its tags are renewed")
            azure.tag_group(group, settings.tags)
            return
        if old:
            raise AzureError(
                f"There is a lab of yours that has expired: {', '.join(old)}.",
                "it costs money and nobody uses it, as far as its tags say.",
                "look at it with `labkit gc`, delete it with `labkit gc --delete`; then run this again.",
                code="ExpiredLab")
        azure.create_group(group, settings.location, settings.tags)

    def verify() -> Evidence:
        found = azure.group(group)
        if found is not None and expired([found]):
            return Evidence(False, f"the group {group} is there, and has expired")
        return _present(found, f"the group {group}")

    marks = " ".join(f"{key}={value}" for key, value in settings.tags.items())
    return Step(
        id="group", title=f"Create the resource group {group}",
        why="A group holds all that belongs together, so that all of it can be removed together. Its tags "
            "say whose it is and when it may go.",
        without="a cluster has nowhere to be.",
        command=f"az group create --name {group} --location {settings.location} --tags {marks}",
        apply=create, verify=verify,
        revert=lambda log: _delete_group(azure, group, log),
        revert_command=f"az group delete --resource-group {group} --yes",
    )


def _check_ours(found: Resource | None, said: str, by_hand: str) -> None:
    """Refuse to delete what does not carry our tag, or carries somebody else's name.

    Args:
        found: the resource, as Azure describes it; None where there is none.
        said: what to call it.
        by_hand: the command that deletes it all the same.

    Raises:
        AzureError: it is not ours.
    """
    marks = (found or {}).get("tags") or {}
    if found is None or (RUN_TAG in marks and marks.get(OWNER_TAG, owner()) == owner()):
        return
    if RUN_TAG not in marks:
        raise AzureError(f"{said} is not labkit's.", f"it does not carry the tag {RUN_TAG}.",
                         f"delete it by hand, if you mean it: `{by_hand}`.", code="NotOurs")
    whose = marks[OWNER_TAG]
    raise AzureError(f"{said} is {whose}'s.", f"its tag {OWNER_TAG} says so, and you are {owner()}.",
                     f"leave it to them. If that is you on another machine, set {OWNER_VARIABLE}={whose} and run this "
                     f"again; two people in one subscription choose names of their own by {STUDENT}.", code="NotYours")


def _delete_cluster(azure: Azure, settings: ClusterSettings, log: Log) -> None:
    group, name = settings.resource_group, settings.name
    _check_ours(azure.cluster(group, name), f"The cluster {name}",
                f"az aks delete --name {name} --resource-group {group}")
    with naming_what_stays(azure, group):
        azure.delete_cluster(group, name, log)


def _cluster_gone(azure: Azure, settings: ClusterSettings) -> Evidence:
    """Whether a cluster is gone, and the group of its machines with it."""
    group, name = settings.resource_group, settings.name
    if azure.cluster(group, name) is not None:
        return Evidence(False, f"the cluster {name} still exists")
    end = f"/resourcegroups/{group}/providers/microsoft.containerservice/managedclusters/{name}".lower()
    left = [str(g["name"]) for g in azure.groups() if str(g.get("managedBy") or "").lower().endswith(end)
            or str(g["name"]).lower() == node_group(settings).lower()[:80]]
    if left:
        return Evidence(False, f"the cluster {name} is gone, but not its machines: {', '.join(left)}")
    return Evidence(True, f"the cluster {name} is gone, and the group of its machines")


def _delete_group(azure: Azure, group: str, log: Log) -> None:
    _check_ours(azure.group(group), f"The resource group {group}", f"az group delete --resource-group {group}")
    with naming_what_stays(azure, group):
        azure.delete_group(group, log)


def _present(resource: Resource | None, said: str) -> Evidence:
    if resource is None:
        return Evidence(False, f"{said} does not exist")
    state = states.of(resource)
    return Evidence(state == "Succeeded", f"{said} is {state}, in {resource.get('location')}")


def _no_contexts(path: Path, contexts: list[str]) -> Evidence:
    names = [c["name"] for c in kubeconfig.load(path).get("contexts") or []]
    left = [c for c in contexts if c in names]
    return Evidence(not left, f"{path} still has {', '.join(left)}" if left else f"{path} has none of them")
