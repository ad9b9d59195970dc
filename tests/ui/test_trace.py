"""A trace's picture: what it draws it also says."""

import re

import pytest

from labkit.ui import show
from labkit.ui.trace import picture
from tests.sourceip.support import load


@pytest.mark.parametrize("name", ["ebpf-detour", "ebpf-pod", "iptables-detour", "vanilla-pod"])
def test_every_hop_is_drawn_said_and_proven(name: str) -> None:
    trace = load(name)
    drawn = picture([trace])
    label = re.search(r'aria-label="([^"]*)"', drawn.html)
    assert label
    for hop in trace.hops:
        assert str(hop.after) in label[1]
        assert str(hop.after) in drawn.text
        assert hop.where in drawn.html
    assert trace.verdict in drawn.text
    marks = drawn.html.count("<path d=") - 1  # one is the arrow's head
    skipped = sum("redirected" in hop.steps for hop in trace.hops)
    assert marks == sum(hop.rewritten for hop in trace.hops) + skipped
    assert ("✗" in drawn.html) == bool(skipped)
    assert drawn.html.count("<tr>") == 1 + sum(len(hop.evidence) for hop in trace.hops)


def test_what_changed_is_not_told_by_colour_alone() -> None:
    html = picture([load("iptables-detour")]).html
    assert html.count("text-decoration:underline") == 4  # both ends, there and back
    assert html.count("stroke-dasharray") == len(load("iptables-detour").reply) - 1


def test_show_draws_one_trace_or_several(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = load("ebpf-pod"), load("vanilla-pod")
    show(one)
    assert capsys.readouterr().out.rstrip() == str(one)
    show([one, two])
    assert capsys.readouterr().out.rstrip() == f"{one}\n\n{two}"
    assert picture([one, two]).html.count("<svg") == 2
