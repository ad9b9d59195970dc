"""Lane C's last step: Felix clears up after kube-proxy, and that is looked for on the nodes."""

from __future__ import annotations

import pytest

from labkit.calico import effects
from tests.doctor.world import NODES, FakeKube

NAT = "*nat\n:PREROUTING ACCEPT [0:0]\n"
OLD = f"{NAT}-A KUBE-SERVICES -d 10.0.0.10/32 -p udp -m udp --dport 53 -j KUBE-SVC-TCOU7JCQXEZGVUNU\nCOMMIT"


@pytest.mark.parametrize(("first", "second", "ok", "said"), [
    (NAT, NAT, True, "no node has rules of kube-proxy's"),
    (NAT, OLD, False, "kube-proxy's rules are still on aks-2"),
    (NAT, "", True, "whether aks-2 still have rules of kube-proxy's cannot be seen"),
    (NAT, None, True, "cannot be seen: could not be started"),
])
def test_old_rules_are_looked_for_and_what_cannot_be_seen_is_not_called_gone(first, second, ok, said):
    kube = FakeKube()
    for node, rules in zip(NODES, (first, second), strict=True):
        pod = {"name": f"calico-{node}", "namespace": "calico-system", "labels": {"k8s-app": "calico-node"}}
        kube.add("pods", {"metadata": pod, "spec": {"nodeName": node}, "status": {"phase": "Running"}})
        kube.answers[f"calico-{node}"] = rules
    found = effects.no_old_rules(kube)  # type: ignore[arg-type]
    assert (found.ok, said in found.text) == (ok, True), found.text
