from labkit.sourceip import manifests


def test_a_policy_lets_in_who_is_named_and_the_load_balancers_probes():
    """On AKS a policy that drops the probes drops everybody: no node is well."""
    spec = manifests.only_from("only-from", ("203.0.113.10/32",))["spec"]
    peers = [peer["ipBlock"]["cidr"] for rule in spec["ingress"] for peer in rule["from"]]
    assert peers == ["203.0.113.10/32", "168.63.129.16/32"]
    assert spec["policyTypes"] == ["Ingress"]
