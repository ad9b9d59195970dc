"""Diagnosis: what is wrong with a cluster, as Azure and Kubernetes tell it."""

from __future__ import annotations

from collections.abc import Callable

from labkit.azure import Azure, ClusterSettings
from labkit.azure.refusals import REFUSALS
from labkit.doctor import azure_checks, cluster_checks, ebpf_checks, operator_checks, proxy_checks, service_checks
from labkit.doctor.azure_checks import AzureView
from labkit.doctor.preflight import ROWS
from labkit.doctor.report import Finding, Report
from labkit.doctor.rows import Check, Row, Seen, azure_row, check, explain, ok, problem
from labkit.doctor.snapshot import Snapshot, take
from labkit.doctor.unseen import UNSEEN
from labkit.errors import AzureError, LabError
from labkit.kube import Kube, Obj, kubeconfig

CLUSTER_CHECKS: tuple[Check[Snapshot], ...] = (
    *cluster_checks.CHECKS, *operator_checks.CHECKS, *proxy_checks.CHECKS, *ebpf_checks.CHECKS,
    *service_checks.CHECKS)


@check("reach", "Kubernetes' API", "The API server",
       symptom="kubectl does not connect, or is refused.",
       cause="the cluster is gone or stopped, the kubeconfig is old, or a network in between blocks port 443.",
       cure="fetch the credentials again: `lab.run(lab.get_credentials())`, or `az aks get-credentials`.",
       source="learn.microsoft.com/troubleshoot/azure/azure-kubernetes/connectivity/"
              "troubleshoot-cluster-connection-issues-api-server")
def reach(error: LabError | None) -> Seen:
    """Whether the API server answered."""
    return ok("it answers") if error is None else problem(f"{error.what} {error.why}".strip(), cure=error.fix)


def diagnose(kube: Callable[[], Kube], azure: Azure | None = None, settings: ClusterSettings | None = None) -> Report:
    """Look at a cluster and name what is wrong with it.

    Args:
        kube: gives the cluster; what it cannot be had for is a finding too.
        azure: its subscription; None where it has none.
        settings: the cluster's name and group; None with `azure`.
    """
    findings: list[Finding] = []
    resource: Obj | None = None
    if azure is not None and settings is not None:
        try:
            resource, seen = _azure(azure, settings)
            findings += seen
        except AzureError as error:
            findings.append(explain(error))
    try:
        cluster = kube()
        snapshot = take(cluster, resource)
    except AzureError as error:
        return Report("Diagnosis", tuple(_once([*findings, explain(error)])))
    except LabError as error:
        return Report("Diagnosis", (*findings, reach(error)))
    findings += [reach(None), *(each(snapshot) for each in CLUSTER_CHECKS)]
    return Report("Diagnosis", tuple(findings))


def _azure(azure: Azure, settings: ClusterSettings) -> tuple[Obj | None, list[Finding]]:
    cluster = azure.cluster(settings.resource_group, settings.name)
    if cluster is None:
        return None, []
    helpers = azure_checks.token_helpers(kubeconfig.load(kubeconfig.default_path()), settings.name)
    view = AzureView(cluster, azure.group(settings.resource_group), helpers=helpers,
                     here=azure_checks.installed(helpers))
    return cluster, [each(view) for each in azure_checks.CHECKS]


def _once(findings: list[Finding]) -> list[Finding]:
    """Each id once, the worst of it: what Azure refuses says more than what its resource shows."""
    last = {finding.id: finding for finding in findings}
    return list(last.values())


def rows() -> tuple[Row, ...]:
    """All that the doctor knows, in the order of its looking."""
    found = [*ROWS, *map(azure_row, REFUSALS), *(c.row for c in azure_checks.CHECKS), reach.row,
             *(c.row for c in CLUSTER_CHECKS), *UNSEEN]
    return tuple({row.id: row for row in found}.values())
