"""Checks before anything is created: this machine, its tools, and whether the target answers."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator

from labkit import machine
from labkit.azure import Azure, ClusterSettings, versions
from labkit.calico.facts import version_key
from labkit.doctor.report import Finding, Report
from labkit.errors import LabError
from labkit.targets import Target

_PYTHON = (3, 11)
_KERNEL = (5, 10)  # what Calico's eBPF data plane asks for
_PACKAGES = ("kubernetes", "azure-identity", "azure-mgmt-containerservice", "azure-mgmt-resource", "plotly",
             "ipywidgets", "papermill")


def preflight(target: Target, azure: Azure | None, settings: ClusterSettings) -> Report:
    """Look at this machine and at the target.

    Args:
        target: where the course shall run.
        azure: its subscription; None where it has none.
        settings: the cluster that shall be created.
    """
    findings = [_python(), _packages(), _kubectl()]
    if target.name == "local":
        findings += [_linux(), _root(), _tools(), _compiler()]
    if azure is not None:
        findings += list(_azure(azure, settings))
    return Report(f"Preflight for the target {target.name}", tuple(findings))


def _python() -> Finding:
    ok = sys.version_info >= _PYTHON
    return Finding("python", "Python", "ok" if ok else "problem", platform.python_version(),
                   cause="labkit uses what Python 3.11 brought.", cure="install Python 3.11 or newer.")


def _packages() -> Finding:
    missing = []
    for name in _PACKAGES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return Finding("packages", "Python packages", "problem" if missing else "ok",
                   f"missing: {', '.join(missing)}" if missing else f"{len(_PACKAGES)} of {len(_PACKAGES)} found",
                   cause="the environment is not the course's.", cure="`make setup`, and use .venv/bin/python.")


def _kubectl() -> Finding:
    found = shutil.which("kubectl")
    return Finding("kubectl", "kubectl", "ok" if found else "warning", found or "not found",
                   symptom="the kubectl lines on cards cannot be pasted; the cards' buttons work all the "
                           "same.",
                   cure="install kubectl 1.31 or newer: `az aks install-cli`, or your distribution's "
                        "package.")


def _linux() -> Finding:
    release = platform.release()
    ok = platform.system() == "Linux" and version_key(release) >= _KERNEL
    return Finding("kernel", "Kernel", "ok" if ok else "problem", f"{platform.system()} {release}",
                   cause="the local lab uses the kernel's namespaces and eBPF, as of Linux 5.10.",
                   cure="use a Linux machine or VM, or the target aks.")


def _root() -> Finding:
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    return Finding("root", "User", "ok", f"{who}; the lab's daemon runs as root, notebooks need not")


def _tools() -> Finding:
    lacking = machine.missing("lab")
    return Finding("tools", "Programs of the local lab", "problem" if lacking else "ok",
                   f"missing: {', '.join(need.name for need in lacking)}" if lacking else "all found",
                   cause="the lab's data planes run the same programs as real nodes.",
                   cure=f"`make setup`. {machine.install(lacking)}")


def _compiler() -> Finding:
    lacking = machine.missing("ebpf")
    return Finding("compiler", "Compiler and loader of eBPF programs", "warning" if lacking else "ok",
                   f"missing: {', '.join(need.name for need in lacking)}" if lacking else "all found",
                   symptom="the eBPF data plane cannot be built; everything else works.",
                   cure=f"`make setup`. {machine.install(lacking)}")


def _azure(azure: Azure, settings: ClusterSettings) -> Iterator[Finding]:
    yield _asked("azure", "Azure Resource Manager", lambda: f"{len(azure.groups())} resource groups, subscription "
                                                            f"{azure.subscription}")
    yield _provider(azure)
    yield _asked("version", f"Kubernetes version in {settings.location}", lambda: versions.choose(
        azure.versions(settings.location), settings.kubernetes_version, settings.location))


def _provider(azure: Azure) -> Finding:
    name = "Microsoft.ContainerService"
    finding = _asked("provider", f"Resource provider {name}", lambda: azure.registered(name))
    if finding.level == "ok" and finding.evidence != "Registered":
        return Finding("provider", finding.title, "warning", finding.evidence,
                       "the first creation takes minutes longer, or is refused.",
                       "a new subscription has no providers registered.",
                       f"`az provider register --namespace {name} --wait`")
    return finding


def _asked(finding_id: str, title: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(finding_id, title, "ok", ask())
    except LabError as error:
        return Finding(finding_id, title, "problem", error.what, cause=error.why, cure=error.fix)
