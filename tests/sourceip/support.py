"""Recorded traces: what tcpdump, conntrack and calico-node printed in a lab, and what was asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from labkit.sourceip import Trace, trace_packets, trace_path
from labkit.sourceip.trace_model import Place
from labkit.sourceip.trace_path import Answered, Capture, Question, Table

FOLDER = Path(__file__).parent / "recorded"


def document(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def load(name: str) -> Trace:
    return told(document(name))


def told(recorded: dict[str, Any]) -> Trace:
    """The trace that a recording, or a changed one, gives."""
    asked = dict(recorded["question"])
    asked["client"] = Place(**asked["client"])
    for many in ("backends", "nodes"):
        asked[many] = tuple(Place(**place) for place in asked[many])
    captures = [Capture(Place(**c["place"]), trace_packets.parse(c["lines"])) for c in recorded["captures"]]
    tables = [Table(t["node"], t["command"], tuple(t["lines"])) for t in recorded["tables"]]
    return trace_path.assemble(
        Question(**asked), captures, tables, Answered(**recorded["answered"]), tuple(recorded["notes"]))
