"""How a data plane looks in every chart: colour, and the same again for those who cannot tell colours apart.

Colours are Okabe and Ito's. Pattern, dash and marker repeat them, and an outline keeps the light ones visible on
white. Ink and grid are greys that a light and a dark theme can both bear.
"""

from typing import Final, NamedTuple

__all__ = ["GRID", "INK", "LOOK", "OUTLINE", "Look", "label", "look"]


class Look(NamedTuple):
    """One series' way of being drawn."""

    colour: str
    pattern: str
    dash: str
    marker: str


INK: Final = "#757b84"
GRID: Final = "rgba(128,128,128,0.28)"
#: around bars and markers: a light colour alone would be faint on white
OUTLINE: Final = {"color": INK, "width": 1}

LOOK: Final[dict[str, Look]] = {
    "vanilla": Look("#E69F00", "", "solid", "circle"),
    "iptables": Look("#0072B2", "/", "dash", "square"),
    "ebpf": Look("#009E73", ".", "longdash", "diamond"),
    "ipvs": Look("#CC79A7", "x", "dot", "triangle-up"),
}
_ALIASES: Final = {
    "calico_ebpf": "ebpf", "calico ebpf": "ebpf", "azure_cni": "vanilla", "calico_iptables": "iptables",
    "kube-proxy": "vanilla", "kube_proxy_iptables": "vanilla", "standard_linux": "vanilla",
}  # fmt: skip
_LABELS: Final = {
    "ebpf": "Calico eBPF",
    "calico_ebpf": "Calico eBPF",
    "iptables": "Calico iptables",
    "calico_iptables": "Calico iptables",
    "vanilla": "kube-proxy",
    "kube_proxy_iptables": "kube-proxy iptables",
    "azure_cni": "Azure CNI, kube-proxy",
    "ipvs": "kube-proxy IPVS",
    "cilium": "Cilium",
    "p50": "kube-proxy iptables, median",
    "p99": "kube-proxy iptables, slowest of a hundred",
}
_OTHERS: Final = (
    Look("#56B4E9", "", "dashdot", "cross"),
    Look("#D55E00", "/", "longdash", "x"),
    Look("#8C8C8C", "\\", "dot", "star"),
    Look("#CC79A7", "x", "dash", "triangle-up"),
    Look("#F0E442", "+", "solid", "pentagon"),
    Look("#E69F00", "-", "dot", "hexagon"),
)


def look(series: str, index: int = 0) -> Look:
    """Return how a series is drawn: the same for a data plane in every chart.

    Args:
        series: its key, such as ``ebpf`` or a column of published figures.
        index: which one it is among those that no data plane is known for.
    """
    key = series.casefold()
    return LOOK.get(_ALIASES.get(key, key)) or _OTHERS[index % len(_OTHERS)]


def label(series: str) -> str:
    """Return how a series is written for people."""
    return _LABELS.get(series, series.replace("_", " "))
