"""Labels and taints that a pool gives its nodes."""

import pytest

from labkit.local.node.marks import changes, taint


@pytest.mark.parametrize(("written", "read"), [
    ("a=b:NoSchedule", {"key": "a", "value": "b", "effect": "NoSchedule"}),
    ("a:NoExecute", {"key": "a", "effect": "NoExecute"}), ("x/y=:NoExecute", {"key": "x/y", "effect": "NoExecute"}),
])
def test_a_taint_as_azure_writes_it(written, read):
    assert taint(written) == read


NODE = {"metadata": {"labels": {"tier": "web", "mine": "1"}},
        "spec": {"taints": [taint("hand=made:NoSchedule"), taint("a=b:NoSchedule")]}}
NONE = ({}, ())


@pytest.mark.parametrize(("old", "new", "patch"), [
    (({"tier": "web"}, ["a=b:NoSchedule"]), ({"tier": "web"}, ["a=b:NoSchedule"]), {}),
    (({"tier": "web"}, ["a=b:NoSchedule"]), NONE,
     {"metadata": {"labels": {"tier": None}}, "spec": {"taints": [taint("hand=made:NoSchedule")]}}),
    (({"tier": "web"}, ["a=b:NoSchedule"]), ({"tier": "db", "new": "x"}, ["a=c:NoSchedule"]),
     {"metadata": {"labels": {"tier": "db", "new": "x"}},
      "spec": {"taints": [taint("hand=made:NoSchedule"), taint("a=c:NoSchedule")]}}),
    (NONE, NONE, {}),
])
def test_what_others_put_on_a_node_stays(old, new, patch):
    assert changes(NODE, old, new) == patch


def test_the_last_taint_goes_as_a_whole():
    node = {"metadata": {}, "spec": {"taints": [taint("a=b:NoSchedule")]}}
    assert changes(node, ({}, ["a=b:NoSchedule"]), NONE) == {"spec": {"taints": None}}
