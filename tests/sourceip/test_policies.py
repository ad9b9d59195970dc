from types import SimpleNamespace

import pytest

from labkit.errors import LabError, NotSupportedError
from labkit.plan import Evidence
from labkit.sourceip import manifests
from labkit.sourceip.policies import Policies

ADDRESSES = {"alice": "203.0.113.10", "bob": ""}


class Cluster:
    """Has the policy that was applied last, or none."""

    policy = None

    def apply(self, manifest):
        self.policy = manifest

    def find(self, *_):
        return self.policy


@pytest.fixture
def kube():
    return Cluster()


@pytest.fixture
def policies(kube):
    return Policies(kube, SimpleNamespace(client=lambda name: SimpleNamespace(address=ADDRESSES[name])))


def test_a_policy_lets_in_who_is_named_and_the_load_balancers_probes():
    """On AKS a policy that drops the probes drops everybody: no node is well."""
    spec = manifests.only_from("only-from", ("203.0.113.10/32",))["spec"]
    peers = [peer["ipBlock"]["cidr"] for rule in spec["ingress"] for peer in rule["from"]]
    assert peers == ["203.0.113.10/32", "168.63.129.16/32"]
    assert spec["policyTypes"] == ["Ingress"]


def test_a_plan_holds_when_the_cluster_has_its_policy_and_no_other(kube, policies):
    (step,) = policies.only_from("alice", cidrs=("198.51.100.0/24",)).steps
    assert step.title == "Write a policy that lets in alice and 198.51.100.0/24 only"
    assert not step.verify().ok
    step.apply(print)
    assert step.verify() == Evidence(True, "it lets in 203.0.113.10/32, 198.51.100.0/24, 168.63.129.16/32")
    (other,) = policies.only_from("alice").steps
    assert not other.verify().ok
    kube.policy = {"spec": {"podSelector": {}}}
    assert step.verify() == Evidence(False, "it lets in nobody")


def test_what_is_no_address_is_refused_before_anything_is_written(policies):
    with pytest.raises(LabError, match=r"'203\.0\.113\.0/33' is not a range of addresses"):
        policies.only_from(cidrs=("203.0.113.0/33",))
    with pytest.raises(NotSupportedError, match="The address of bob is not known"):
        policies.only_from("alice", "bob")
