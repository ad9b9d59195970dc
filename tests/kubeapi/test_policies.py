"""What a policy may say to the API, and the words of the refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.local.bootstrap.crds import calico_definitions
from labkit.local.kubeapi import Api

from .conftest import make_api
from .test_verbs import refusal

KUBERNETES, CALICO = "networkpolicies.networking.k8s.io", "networkpolicies.crd.projectcalico.org"
GLOBAL, HOSTS = "globalnetworkpolicies.crd.projectcalico.org", "hostendpoints.crd.projectcalico.org"
P, F = "spec.ingress[0].ports[0]", "spec.ingress[0].from[0]"


def ports(*given: dict) -> dict:
    return {"ingress": [{"ports": list(given)}]}


def peers(*given: dict) -> dict:
    return {"ingress": [{"from": list(given)}]}


def block(cidr: str, *left_out: str) -> dict:
    return peers({"ipBlock": {"cidr": cidr, "except": list(left_out)}})


@pytest.fixture
def calico(api: Api) -> Api:
    for definition in calico_definitions():
        api.create("customresourcedefinitions.apiextensions.k8s.io", definition)
    return api


def policy(**spec: object) -> dict:
    return {"metadata": {"name": "p"}, "spec": spec}


@pytest.mark.parametrize(("spec", "words"), [
    (ports({"protocol": "ICMP"}), f'{P}.protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"'),
    (ports({"port": 0}), f"{P}.port: Invalid value: 0: must be between 1 and 65535, inclusive"),
    (ports({"port": "Web_"}), f'{P}.port: Invalid value: "Web_": must contain only alpha-numeric characters (a-z, 0-9),'
     " and hyphens (-)"),
    (ports({"port": "a-very-long-port-name"}),
     f'{P}.port: Invalid value: "a-very-long-port-name": must be no more than 15 characters'),
    (peers({}), f"{F}: Required value: must specify a peer"),
    (peers({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}),
     f"{F}: Forbidden: may not specify both ipBlock and another peer"),
    (peers({"ipBlock": {}}), f"{F}.ipBlock.cidr: Required value"),
    (block("10.0.0.1"), f'{F}.ipBlock.cidr: Invalid value: "10.0.0.1": not a valid CIDR'),
    (block("10.0.0.0/8", "x"), f'{F}.ipBlock.except[0]: Invalid value: "x": not a valid CIDR'),
    (block("10.0.0.0/8", "10.1.0.0/16", "192.168.0.0/16"),
     f'{F}.ipBlock.except[1]: Invalid value: "192.168.0.0/16": must be a strict subset of `cidr`'),
    (block("10.0.0.0/8", "10.0.0.0/8"),
     f'{F}.ipBlock.except[0]: Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`'),
    ({"policyTypes": ["ingress"]},
     'spec.policyTypes[0]: Unsupported value: "ingress": supported values: "Egress", "Ingress"'),
    ({"policyTypes": ["Ingress", "Egress", "Ingress"]},
     'spec.policyTypes: Invalid value: ["Ingress","Egress","Ingress"]: may not specify more than two policyTypes'),
    ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}},
     'spec.podSelector.matchExpressions[0].operator: Invalid value: "Is": not a valid selector operator'),
    (peers({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
     f"{F}.namespaceSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or"
     " 'NotIn'"),
    (peers({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}),
     f"{F}.podSelector.matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or"
     " 'DoesNotExist'"),
])
def test_kubernetes_refusals(api: Api, spec: dict, words: str) -> None:
    error = refusal(api.create, KUBERNETES, policy(**spec), "default")
    assert str(error) == f'NetworkPolicy.networking.k8s.io "p" is invalid: {words}'


def test_sctp_is_accepted_as_kubernetes_does(api: Api) -> None:
    made = api.create(KUBERNETES, policy(**ports({"protocol": "SCTP", "port": 7777})), "default")
    assert made["spec"]["ingress"] == [{"ports": [{"protocol": "SCTP", "port": 7777}]}]


def test_end_port_is_dropped_before_1_22_and_checked_since(api: Api, tmp_path: Path) -> None:
    wanted = policy(**ports({"port": 80, "endPort": 90}))
    assert api.create(KUBERNETES, wanted, "default")["spec"]["ingress"][0]["ports"] == [{"port": 80, "protocol": "TCP"}]
    today = make_api(tmp_path / "today.db", "v1.34.0")
    try:
        assert today.create(KUBERNETES, wanted, "default")["spec"]["ingress"][0]["ports"][0]["endPort"] == 90
        for port, words in (
                ({"port": 80, "endPort": 79}, "79: must be greater than or equal to `port`"),
                ({"port": "http", "endPort": 90}, "90: may not be specified when `port` is non-numeric"),
                ({"endPort": 90}, "90: may not be specified when `port` is not specified"),
                ({"port": 80, "endPort": 70000}, "70000: must be between 1 and 65535, inclusive")):
            error = refusal(today.create, KUBERNETES, {**policy(**ports(port)), "metadata": {"name": "q"}}, "default")
            assert str(error).endswith(f"{P}.endPort: Invalid value: {words}")
    finally:
        today.close()


R = "spec.ingress[0]"


def rule(**given: object) -> dict:
    return {"selector": "all()", "ingress": [{"action": "Allow", **given}]}


@pytest.mark.parametrize(("spec", "words"), [
    ({"doNotTrack": True}, "applyOnForward must be true if either preDNAT or doNotTrack is true"),
    ({"doNotTrack": True, "preDNAT": True}, "preDNAT and doNotTrack cannot both be true"),
    ({"doNotTrack": True, "applyOnForward": True}, "spec.doNotTrack: Forbidden: is for host endpoints"),
    ({"preDNAT": True, "applyOnForward": True}, "spec.preDNAT: Forbidden: is for host endpoints"),
    ({"tier": "security"}, "spec.tier: Forbidden: the lab has Calico's default tier alone, and no security."),
    ({"serviceAccountSelector": "a == 'b'"}, "spec.serviceAccountSelector: Forbidden"),
    ({"selector": "global()"}, "global() can only be used in an EntityRule namespaceSelector"),
    ({"namespaceSelector": "global()"}, "global() can only be used in an EntityRule namespaceSelector"),
    ({"types": ["Ingress", "Ingress"]}, "'Ingress' type specified more than once"),
    ({"types": ["ingress"]}, 'spec.types[0]: Unsupported value: "ingress"'),
    ({"order": "first"}, "spec.order"),
    ({"ingress": [{}]}, f"{R}.action: Required value"),
    ({"ingress": [{"action": "allow"}]}, f'{R}.action: Unsupported value: "allow"'),
    (rule(http={"methods": ["GET"]}), f"{R}.http: Forbidden"),
    (rule(protocol="ICMP", icmp={"type": 8}), f"{R}.icmp: Forbidden"),
    (rule(notProtocol="TCP"), f"{R}.notProtocol: Forbidden"),
    (rule(source={"services": {"name": "s"}}), f"{R}.source.services: Forbidden"),
    (rule(source={"serviceAccounts": {"selector": "a == 'b'"}}), f"{R}.source.serviceAccounts.selector: Forbidden"),
    (rule(source={"nets": ["10.0.0.0", "10.0.0"]}), f'{R}.source.nets[1]: Invalid value: "10.0.0": invalid CIDR'),
    (rule(source={"selector": "global()"}), "global() can only be used in an EntityRule namespaceSelector"),
    (rule(source={"namespaceSelector": "global() || a == 'b'"}), "global() cannot be combined with other selectors"),
    (rule(destination={"ports": [80]}),
     "rules with numeric port or port range must set protocol to TCP or UDP or SCTP"),
    (rule(protocol="ICMP", destination={"notPorts": ["a"]}),
     "rules that specify ports must set protocol to TCP or UDP or SCTP"),
    (rule(protocol="TCP", source={"ports": [80]}), f"{R}.source.ports: Forbidden"),
    (rule(protocol="SCTP", destination={"ports": [80]}), "ports of SCTP are not something"),
    (rule(protocol="TCP", destination={"notPorts": ["http"]}), "a name among the ports to leave out"),
])
def test_calico_refusals(calico: Api, spec: dict, words: str) -> None:
    error = refusal(calico.create, GLOBAL, policy(**spec))
    assert (error.code, error.reason) == (422, "Invalid")
    assert words in str(error)


def test_what_calico_takes_is_kept(calico: Api) -> None:
    spec = {"order": 10.5, "selector": "app == 'web'", "types": ["Ingress", "Egress"], "namespaceSelector": "has(a)",
            "tier": "default", "applyOnForward": True, "ingress": [
                {"action": "Log"}, {"action": "Pass", "protocol": "SCTP"},
                {"action": "Deny", "protocol": 6, "source": {"namespaceSelector": "global()"},
                 "destination": {"ports": [80, "8000:8100", "http"]}},
                {"action": "Allow", "destination": {"ports": ["http"]}}],
            "egress": [{"action": "Allow", "ipVersion": 4}]}
    assert calico.create(GLOBAL, policy(**spec))["spec"] == spec
    made = calico.create(CALICO, policy(selector="all()", doNotTrack=True, typo=1), "default")
    assert made["spec"] == {"selector": "all()"}           # fields that a namespaced policy does not have


def test_host_endpoints_are_refused(calico: Api) -> None:
    error = refusal(calico.create, HOSTS, {"metadata": {"name": "h"}, "spec": {"node": "n", "interfaceName": "*"}})
    assert "the lab has no host endpoints" in str(error)
    assert "GlobalNetworkPolicy" in str(error)
