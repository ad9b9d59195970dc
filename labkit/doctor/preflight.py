"""Checks before anything is created: this machine, its tools, and what the subscription allows."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from labkit import machine
from labkit.azure import Azure, ClusterSettings, versions
from labkit.azure.refusals import REFUSALS
from labkit.azure.settings import SIZE_FALLBACKS
from labkit.azure.tags import expired
from labkit.calico.facts import version_key
from labkit.doctor.azure_checks import az_expired
from labkit.doctor.report import Finding, Report
from labkit.doctor.rows import Row, Seen, azure_row, explain, ok, problem, unknown, warning
from labkit.errors import AzureError, LabError, LabNotRunningError
from labkit.targets import Target

_PYTHON = (3, 11)
_KERNEL = (5, 10)  # what Calico's eBPF data plane asks for
_PACKAGES = ("kubernetes", "azure-identity", "azure-mgmt-containerservice", "azure-mgmt-resource", "plotly",
             "ipywidgets", "papermill")
PROVIDERS = ("Microsoft.ContainerService", "Microsoft.Compute", "Microsoft.Network", "Microsoft.ManagedIdentity")
MACHINE, AZURE = "This machine", "Azure"
_DOCS = "docs/troubleshooting.md"

_PYTHON_ROW = Row("python", MACHINE, "Python", "imports fail.", "labkit uses what Python 3.11 brought.",
                  "install Python 3.11 or newer.", _DOCS)
_PACKAGES_ROW = Row("packages", MACHINE, "Python packages", "imports fail.", "the environment is not the course's.",
                    "`make setup`, and use .venv/bin/python.", _DOCS)
_KUBECTL_ROW = Row("kubectl", MACHINE, "kubectl",
                   "the kubectl lines on cards cannot be pasted; the cards' buttons work all the same.",
                   "it is not on the PATH.",
                   "install kubectl 1.31 or newer: `az aks install-cli`, or your distribution's package.", _DOCS)
_AZ_ROW = Row("az", MACHINE, "az", "the az lines on cards cannot be pasted; the cards' buttons work all the same.",
              "it is not on the PATH, and nothing but pasting needs it.",
              "`pip install azure-cli` in a virtual environment of its own.", _DOCS)
_KERNEL_ROW = Row("kernel", MACHINE, "Kernel", "`labkit up` or the eBPF notebooks stop.",
                  "the local lab uses the kernel's namespaces and eBPF, as of Linux 5.10.",
                  "use a Linux machine or VM, or the target aks.", _DOCS)
_ROOT_ROW = Row("root", MACHINE, "User", "`labkit up` says that it needs root.",
                "namespaces and eBPF programs are root's.", "`sudo env PATH=\"$PATH\" labkit up`", _DOCS)
_TOOLS_ROW = Row("tools", MACHINE, "Programs of the local lab", "`labkit up` names programs that are missing.",
                 "the lab's data planes run the same programs as real nodes.", "`make setup`.", _DOCS)
_COMPILER_ROW = Row("compiler", MACHINE, "Compiler and loader of eBPF programs",
                    "the eBPF data plane cannot be built; everything else works.",
                    "the programs are compiled from C on this machine.", "`make setup`.", _DOCS)
_LAB_ROW = Row("lab", MACHINE, "Local lab", "the course, `kubectl` and `az` reach nothing.",
               "nobody has started its daemon, or it has ended.", "`sudo labkit up`", _DOCS)
_AZURE_ROW = Row("azure", AZURE, "Azure Resource Manager", "nothing can be created.",
                 "Azure does not answer, or does not know who we are.",
                 "`az login`; on the local lab `labkit status` says whether it runs.",
                 "learn.microsoft.com/python/api/overview/azure/identity-readme")
ROWS = (_PYTHON_ROW, _PACKAGES_ROW, _KUBECTL_ROW, _AZ_ROW, _KERNEL_ROW, _ROOT_ROW, _TOOLS_ROW, _COMPILER_ROW,
        _LAB_ROW, _AZURE_ROW)
_REFUSED = {refusal.id: azure_row(refusal) for refusal in REFUSALS}


def preflight(target: Target, azure: Azure | None, settings: ClusterSettings) -> Report:
    """Look at this machine and at the target.

    Args:
        target: where the course shall run.
        azure: its subscription; None where it has none.
        settings: the cluster that shall be created.
    """
    findings = _machine(local=target.name == "local", azure=azure is not None)
    if azure is not None:
        findings += _azure(azure, settings)
    return Report(f"Preflight for the target {target.name}", tuple(findings))


def without_a_lab(error: LabNotRunningError) -> Report:
    """Look at this machine where the local lab is down: who only looks does not start it.

    Args:
        error: says that it is down.
    """
    down = _LAB_ROW.found(problem(f"not running: {error.why}", cure=error.fix))
    return Report("Preflight for the target local", (*_machine(local=True, azure=True), down))


def _machine(*, local: bool, azure: bool) -> list[Finding]:
    findings = [_PYTHON_ROW.found(_python()), _PACKAGES_ROW.found(_packages()), _KUBECTL_ROW.found(_kubectl())]
    if azure:
        findings.append(_AZ_ROW.found(_az()))
    if local:
        findings += [_KERNEL_ROW.found(_linux()), _ROOT_ROW.found(_root()), _TOOLS_ROW.found(_tools()),
                     _COMPILER_ROW.found(_compiler())]
    return findings


def _python() -> Seen:
    said = platform.python_version()
    return ok(said) if sys.version_info >= _PYTHON else problem(said)


def _packages() -> Seen:
    missing = []
    for name in _PACKAGES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return problem(f"missing: {', '.join(missing)}", "make setup") if missing else ok(f"all {len(_PACKAGES)} found")


def _kubectl() -> Seen:
    found = shutil.which("kubectl")
    return ok(found) if found else warning("not found")


def _az() -> Seen:
    return ok(shutil.which("az") or "not found; only lines that you paste need it")


def _linux() -> Seen:
    said = f"{platform.system()} {platform.release()}"
    new = platform.system() == "Linux" and version_key(platform.release()) >= _KERNEL
    return ok(said) if new else problem(said)


def _root() -> Seen:
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    return ok(f"{who}; the lab's daemon runs as root, notebooks need not")


def _tools() -> Seen:
    if lacking := machine.missing("lab"):
        return problem(f"missing: {', '.join(need.name for need in lacking)}", "make setup",
                       f"`make setup`. {machine.install(lacking)}")
    return ok("all found")


def _compiler() -> Seen:
    if lacking := machine.missing("ebpf"):
        return warning(f"missing: {', '.join(need.name for need in lacking)}", "make setup",
                       f"`make setup`. {machine.install(lacking)}")
    return ok("all found")


# Azure


def _azure(azure: Azure, settings: ClusterSettings) -> list[Finding]:
    """What the subscription allows, all asked at the same time; where Azure does not let us in, only that."""
    place = settings.location
    try:
        groups = azure.groups()
    except AzureError as error:
        return [explain(error)]
    except LabError as error:
        return [_AZURE_ROW.found(problem(f"{error.what} {error.why}".strip(), cure=error.fix))]
    with ThreadPoolExecutor(max_workers=8) as pool:
        states = {name: pool.submit(azure.registered, name) for name in PROVIDERS}
        offered, sizes = pool.submit(azure.versions, place), pool.submit(azure.sizes, place)
        usages = pool.submit(azure.usages, place)
        return [
            _AZURE_ROW.found(ok(f"{len(groups)} resource groups, subscription {azure.subscription}")),
            _asked("az-rp", lambda: providers({name: state.result() for name, state in states.items()})),
            _asked("az-version", lambda: ok(
                f"{versions.choose(offered.result(), settings.kubernetes_version, place)} can be created in {place}")),
            _asked("az-sku", lambda: size(sizes.result(), settings)),
            _asked("az-quota", lambda: quota(usages.result(), sizes.result(), settings)),
            az_expired.row.found(forgotten(groups, datetime.now(UTC))),
        ]


def providers(states: dict[str, str]) -> Seen:
    """Whether the resource providers that a cluster needs are registered.

    Args:
        states: the registration state of each.
    """
    missing = [name for name, state in states.items() if state != "Registered"]
    if not missing:
        return ok(f"registered: {', '.join(name.removeprefix('Microsoft.') for name in states)}")
    return warning(", ".join(f"{name} is {states[name]}" for name in missing),
                   "\n".join(f"az provider register --wait --namespace {name}" for name in missing))


def size(sizes: dict[str, dict[str, Any]], settings: ClusterSettings) -> Seen:
    """Whether the subscription may use the nodes' size in the location, or one that takes its place.

    Args:
        sizes: what Azure says of each size there.
        settings: the cluster that shall be created.
    """
    def allowed(name: str) -> bool:
        found = sizes.get(name)
        return found is not None and not any(r.get("type") == "Location" for r in found.get("restrictions") or ())

    wanted = settings.node_vm_size
    if allowed(wanted):
        return ok(f"{wanted} is allowed in {settings.location}")
    others = [name for name in SIZE_FALLBACKS if name != wanted and allowed(name)]
    said = f"{wanted} is {'restricted' if wanted in sizes else 'not offered'} in {settings.location}"
    if others:
        return warning(f"{said}; {others[0]} will be used instead")
    return problem(said, f"az vm list-skus --location {settings.location} --size Standard_D --output table")


def quota(usages: dict[str, tuple[int, int]], sizes: dict[str, dict[str, Any]], settings: ClusterSettings) -> Seen:
    """Whether the quota suffices for the nodes, and for one more while nodes are replaced.

    Args:
        usages: used and limit by the quota's name.
        sizes: what Azure says of each size.
        settings: the cluster that shall be created.
    """
    found = sizes.get(settings.node_vm_size) or {}
    family = str(found.get("family", ""))
    vcpus = next((int(c["value"]) for c in found.get("capabilities") or () if c["name"] == "vCPUs"), 2)
    need, surge = settings.node_count * vcpus, vcpus
    short: list[str] = []
    tight: list[str] = []
    said: list[str] = []
    for name in dict.fromkeys(("cores", family)):
        used, limit = next((u for key, u in usages.items() if key.lower() == name.lower()), (0, -1))
        if limit < 0:
            continue  # Azure counts this family nowhere: only the region's quota holds
        left = limit - used
        said.append(f"{name}: {left} of {limit} left")
        (short if left < need else tight if left < need + surge else []).append(name)
    if not said:
        return unknown("Azure names no quota of vCPUs here")
    text = f"{settings.node_count} nodes need {need} vCPUs, {surge} more while one is replaced; {', '.join(said)}"
    look = f"az vm list-usage --location {settings.location} --output table"
    return problem(text, look) if short else warning(text, look) if tight else ok(text)


def forgotten(groups: list[dict[str, Any]], now: datetime) -> Seen:
    """Whether a group of the course is past its expiry and still there.

    Args:
        groups: the subscription's.
        now: with a zone.
    """
    if found := expired(groups, now):
        return warning(f"past their time: {', '.join(found)}",
                       "\n".join(f"az group delete --name {name}" for name in found))
    return ok("no group of the course is past its time")


def _asked(row_id: str, ask: Callable[[], Seen]) -> Finding:
    """What a question to Azure found; a refusal is its own finding."""
    try:
        return _REFUSED[row_id].found(ask())
    except AzureError as error:
        found = explain(error)
        # A subscription that may not be asked for its quota can still have enough of it.
        return found if found.id == row_id or found.id == "az-location" else _REFUSED[row_id].found(
            unknown(found.evidence))
