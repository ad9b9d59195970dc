"""Who may say bpfEnabled: since v1.34 the operator alone. Pure."""

from __future__ import annotations

from labkit.local.client import Obj, copy_of

ANNOTATION = "operator.tigera.io/bpfEnabled"
REFUSAL = ('Unable to set bpfEnabled: FelixConfiguration "default" has been modified by someone else, '
           "refusing to override potential user configuration.")


class ModifiedBySomeoneElse(Exception):  # noqa: N818 - the operator's own words
    """The field is not what the operator last wrote."""


def felix_configuration(current: Obj, *, bpf: bool, rolled_out: bool) -> Obj | None:
    """FelixConfiguration as it should be, or None where it is so already.

    Args:
        current: the object.
        bpf: whether the Installation asks for eBPF.
        rolled_out: whether every calico-node runs with what eBPF needs.

    Raises:
        ModifiedBySomeoneElse: it must change, and somebody else changed it last.
    """
    value = (current.get("spec") or {}).get("bpfEnabled")
    if (bpf and (value or not rolled_out)) or (not bpf and value is False):
        return None
    written = (current["metadata"].get("annotations") or {}).get(ANNOTATION)
    if {None: None, "true": True, "false": False}.get(written) is not value:
        raise ModifiedBySomeoneElse(REFUSAL)
    wanted: Obj = copy_of(current)
    wanted.setdefault("spec", {})["bpfEnabled"] = bpf
    wanted["metadata"].setdefault("annotations", {})[ANNOTATION] = str(bpf).lower()
    return wanted


def rolled_out(daemonset: Obj, volume: str) -> bool:
    """Whether calico-node's pods all have the volume, run, and are ready."""
    status = daemonset.get("status") or {}
    if status.get("observedGeneration") != daemonset["metadata"].get("generation"):
        return False
    volumes = daemonset["spec"]["template"]["spec"].get("volumes") or ()
    current = status.get("currentNumberScheduled", 0)
    return (any(v["name"] == volume for v in volumes)
            and current == status.get("updatedNumberScheduled", 0) == status.get("numberAvailable", 0))
