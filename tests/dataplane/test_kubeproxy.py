import subprocess

import pytest

from labkit.local.dataplane.conntrack import stale_udp
from labkit.local.dataplane.iptables import Iptables, IptablesError, remove_chains
from labkit.local.dataplane.kubeproxy import JUMPS, SERVICE_CHAINS, ProxyConfig, build, chain_name
from labkit.local.dataplane.services import Endpoint, ServicePort
from labkit.local.fabric import netns
from labkit.local.programs.kube_proxy import Proxier
from tests.counting import lines_of
from tests.dataplane.service_lab import endpoint, service, slice_of

CONFIG = ProxyConfig("n1", "10.224.0.4", "10.224.0.0/16")
ONE, TWO = Endpoint("10.224.0.5", 8080, "n1"), Endpoint("10.224.0.40", 8080, "n2")


def port(*endpoints, name="web", **fields):
    given = {"port_name": "http", "protocol": "TCP", "cluster_ip": "10.0.1.1", "port": 80, **fields}
    return ServicePort(namespace="shop", name=name, endpoints=endpoints, **given)


def lines(*ports, **kwargs):
    return build(ports, CONFIG, **kwargs).text.splitlines()


def rules_of(text, chain):
    return [line.removeprefix(f"-A {chain} ") for line in text if line.startswith(f"-A {chain} ")]


def test_chains_have_the_names_that_kube_proxy_gives_them():
    # Seen on real clusters: the API's service and the DNS service.
    assert chain_name("KUBE-SVC-", "default/kubernetes:https", "tcp") == "KUBE-SVC-NPX46M4PTMTKRN6Y"
    assert chain_name("KUBE-SVC-", "kube-system/kube-dns:dns", "udp") == "KUBE-SVC-TCOU7JCQXEZGVUNU"
    assert chain_name("KUBE-SVC-", "kube-system/kube-dns:dns-tcp", "tcp") == "KUBE-SVC-ERIFXISQEP7F7OF4"


def test_a_cluster_ip_goes_to_each_endpoint_with_the_same_chance():
    svc = chain_name("KUBE-SVC-", "shop/web:http", "tcp")
    one = chain_name("KUBE-SEP-", "shop/web:http", "tcp", "10.224.0.5:8080")
    two = chain_name("KUBE-SEP-", "shop/web:http", "tcp", "10.224.0.40:8080")
    text = lines(port(ONE, TWO))
    own = '-m comment --comment "shop/web:http"'
    match = '-m comment --comment "shop/web:http cluster IP" -m tcp -p tcp -d 10.0.1.1/32 --dport 80'
    assert rules_of(text, "KUBE-SERVICES")[:2] == [
        f"{match} ! -s 10.224.0.0/16 -j KUBE-MARK-MASQ", f"{match} -j {svc}"]
    assert rules_of(text, svc) == [
        f'{own} -m statistic --mode random --probability 0.5000000000 -j {one}', f"{own} -j {two}"]
    assert rules_of(text, one) == [
        f"{own} -s 10.224.0.5/32 -j KUBE-MARK-MASQ",
        f"{own} -m tcp -p tcp -j DNAT --to-destination 10.224.0.5:8080"]
    assert rules_of(text, "KUBE-SERVICES")[-1].endswith("--dst-type LOCAL -j KUBE-NODEPORTS")


def test_without_endpoints_a_service_is_refused():
    text = lines(port(node_port=30080, lb_ips=("192.0.2.9",)))
    comment = '-m comment --comment "shop/web:http has no endpoints"'
    assert rules_of(text, "KUBE-SERVICES")[0] == (
        f"{comment} -m tcp -p tcp -d 10.0.1.1/32 --dport 80 -j REJECT")
    assert rules_of(text, "KUBE-EXTERNAL-SERVICES") == [
        f"{comment} -m tcp -p tcp -d 192.0.2.9/32 --dport 80 -j REJECT",
        f"{comment} -m addrtype --dst-type LOCAL -m tcp -p tcp --dport 30080 -j REJECT"]
    assert not any("KUBE-SVC-" in line for line in text)


def test_a_load_balancer_masquerades_under_cluster_and_not_under_local():
    firewall = chain_name("KUBE-FW-", "shop/web:http", "tcp")
    xlb = chain_name("KUBE-XLB-", "shop/web:http", "tcp")
    svc = chain_name("KUBE-SVC-", "shop/web:http", "tcp")
    head = '-m comment --comment "shop/web:http loadbalancer IP"'
    cluster = lines(port(ONE, TWO, lb_ips=("192.0.2.9",), node_port=30080))
    assert rules_of(cluster, firewall) == [f"{head} -j KUBE-MARK-MASQ", f"{head} -j {svc}",
                                           f"{head} -j KUBE-MARK-DROP"]
    local = lines(port(ONE, TWO, lb_ips=("192.0.2.9",), node_port=30080, external_policy="Local"))
    assert rules_of(local, firewall) == [f"{head} -j {xlb}", f"{head} -j KUBE-MARK-DROP"]
    assert [line.rpartition(" ")[2] for line in rules_of(local, xlb)] == [
        svc, "KUBE-MARK-MASQ", svc, chain_name("KUBE-SEP-", "shop/web:http", "tcp", "10.224.0.5:8080")]
    assert rules_of(local, "KUBE-NODEPORTS")[0].endswith("-s 127.0.0.0/8 -j KUBE-MARK-MASQ")


def test_local_without_a_local_endpoint_drops():
    xlb = chain_name("KUBE-XLB-", "shop/web:http", "tcp")
    text = lines(port(TWO, lb_ips=("192.0.2.9",), external_policy="Local"))
    assert rules_of(text, xlb)[-1] == (
        '-m comment --comment "shop/web:http has no local endpoints" -j KUBE-MARK-DROP')


def test_source_ranges_let_only_their_clients_in():
    firewall = chain_name("KUBE-FW-", "shop/web:http", "tcp")
    text = lines(port(ONE, lb_ips=("192.0.2.9",), lb_source_ranges=("203.0.113.0/24",)))
    assert [line.partition("IP\" ")[2].split(" -j KUBE-SVC")[0] for line in rules_of(text, firewall)] == [
        "-j KUBE-MARK-MASQ", "-s 203.0.113.0/24", "-j KUBE-MARK-DROP"]
    text = lines(port(ONE, lb_ips=("192.0.2.9",), lb_source_ranges=("10.224.0.0/16",)))
    assert [line.partition("IP\" ")[2].split(" -j KUBE-SVC")[0] for line in rules_of(text, firewall)] == [
        "-j KUBE-MARK-MASQ", "-s 10.224.0.0/16", "-s 192.0.2.9/32", "-j KUBE-MARK-DROP"], "a range with the node in it"


def test_client_affinity_asks_the_recent_lists_first():
    text = lines(port(ONE, TWO, affinity_seconds=10800))
    svc = chain_name("KUBE-SVC-", "shop/web:http", "tcp")
    sep = chain_name("KUBE-SEP-", "shop/web:http", "tcp", "10.224.0.5:8080")
    assert len(rules_of(text, svc)) == 4
    assert rules_of(text, svc)[0].endswith(f"-m recent --name {sep} --rcheck --seconds 10800 --reap -j {sep}")
    assert f"-m recent --name {sep} --set" in rules_of(text, sep)[1]


def test_chains_out_of_use_are_deleted_and_a_partial_sync_writes_only_changes():
    first = build([port(ONE), port(TWO, name="cart", cluster_ip="10.0.1.2")], CONFIG)
    second = build([port(ONE), port(ONE, name="cart", cluster_ip="10.0.1.2")], CONFIG, first.chains,
                   {("shop", "cart")})
    gone = chain_name("KUBE-SEP-", "shop/cart:http", "tcp", "10.224.0.40:8080")
    assert first.chains - second.chains == {gone}
    text = second.text.splitlines()
    assert f"-X {gone}" in text
    assert rules_of(text, chain_name("KUBE-SVC-", "shop/cart:http", "tcp"))
    assert not rules_of(text, chain_name("KUBE-SVC-", "shop/web:http", "tcp"))
    assert len([line for line in rules_of(text, "KUBE-SERVICES") if "cluster IP" in line]) == 4


def test_a_partial_sync_writes_a_service_whose_chains_are_gone_too_and_empties_what_it_deletes():
    first = build([port(ONE), port(TWO, name="cart")], CONFIG)
    svc, lost = (chain_name("KUBE-SVC-", f"shop/{name}:http", "tcp") for name in ("web", "cart"))
    second = build([port(ONE), port(TWO, name="cart")], CONFIG, first.chains - {lost}, ())
    assert f":{lost} - [0:0]" in second.text.splitlines()
    assert f":{svc} - [0:0]" not in second.text.splitlines()
    text = build([port(TWO, name="cart")], CONFIG, first.chains, ()).text.splitlines()
    assert text.index(f":{svc} - [0:0]") < text.index(f"-X {svc}"), "only an empty chain can be deleted"


def test_external_ips_are_masqueraded_under_cluster_alone_and_refused_without_endpoints():
    def marked(**fields):
        rules = rules_of(lines(port(ONE, external_ips=("192.0.2.7",), **fields)), "KUBE-SERVICES")
        return [rule.rpartition(" ")[2] for rule in rules if "192.0.2.7" in rule]

    svc, xlb = (chain_name(kind, "shop/web:http", "tcp") for kind in ("KUBE-SVC-", "KUBE-XLB-"))
    assert marked() == ["KUBE-MARK-MASQ", svc, svc]
    assert marked(external_policy="Local") == [xlb, xlb]
    (refused,) = rules_of(lines(port(external_ips=("192.0.2.7",))), "KUBE-EXTERNAL-SERVICES")
    assert refused.endswith("-m tcp -p tcp -d 192.0.2.7/32 --dport 80 -j REJECT")


def test_local_without_a_way_in_from_outside_is_nothing_of_its_own():
    assert lines(port(ONE, external_policy="Local")) == lines(port(ONE))


@pytest.mark.parametrize("policy", ["external_policy", "internal_policy"])
def test_what_shuts_down_as_the_last_of_its_node_has_a_chain_for_the_policy_local(policy):
    last = Endpoint("10.224.0.6", 8080, "n1", ready=False, serving=True, terminating=True)
    sep = chain_name("KUBE-SEP-", "shop/web:http", "tcp", "10.224.0.6:8080")
    text = lines(port(last, TWO, node_port=30080, **{policy: "Local"}))
    assert text.count(f":{sep} - [0:0]") == 1
    assert len(rules_of(text, sep)) == 2
    assert f":{sep} - [0:0]" not in lines(port(last, TWO, node_port=30080))
    both = lines(port(ONE, TWO, node_port=30080, **{policy: "Local"}))
    assert both.count(f":{chain_name('KUBE-SEP-', 'shop/web:http', 'tcp', '10.224.0.5:8080')} - [0:0]") == 1


@pytest.mark.parametrize(("node", "ranges", "held"), [
    ("10.224.0.4", "10.224.3.9/16", True), ("10.224.0.4", "10.225.0.0/16", False), ("", "0.0.0.0/0", False)])
def test_a_range_holds_the_node_as_kube_proxy_reads_it(node, ranges, held):
    assert ProxyConfig("n1", node).is_node_in(ranges) is held


@pytest.mark.parametrize(("endpoints", "said"), [(1000, True), (1001, False)])
def test_with_more_than_a_thousand_endpoints_the_chains_of_services_have_no_comments(endpoints, said):
    """kube-proxy's own limit; what leads to the chains keeps them, so that the doctor and people find a service."""
    pods = [Endpoint(f"10.{i >> 8}.{i & 255}.9", 80, "n1") for i in range(endpoints)]
    ports = [port(pod, name=f"web{i}", affinity_seconds=60) for i, pod in enumerate(pods)]
    text = build(ports, CONFIG).text
    assert ("--comment" in next(r for r in text.splitlines() if r.startswith("-A KUBE-SEP-"))) is said
    assert ("--comment" in next(r for r in text.splitlines() if r.startswith("-A KUBE-SVC-"))) is said
    assert all("--comment" in r for r in text.splitlines() if r.startswith("-A KUBE-SERVICES"))


def test_ten_times_as_many_services_are_ten_times_the_work():
    work = {}
    for number in (100, 1000):
        ports = [port(ONE, TWO, name=f"s{i}", cluster_ip=f"10.0.{i // 250}.{i % 250}") for i in range(number)]
        with lines_of("labkit.local.dataplane") as written:
            rules = build(ports, CONFIG)
        with lines_of("labkit.local.dataplane") as again:
            build(ports, CONFIG, rules.chains, {("shop", "s7")})
        work[number] = (written[0], again[0])
        assert rules.text.count("-j DNAT") == 2 * number
    for few, many in zip(work[100], work[1000], strict=True):
        assert many < min(11 * few, 200 * 1000), work


def test_connections_to_udp_endpoints_that_are_gone_are_forgotten():
    before, after = (port(*ends, protocol="UDP", node_port=30053) for ends in ((ONE, TWO), (ONE,)))
    assert list(stale_udp([before], [after])) == [
        ("-D", "-p", "udp", "--orig-dst", "10.0.1.1", "--dst-nat", "10.224.0.40"),
        ("-D", "-p", "udp", "--orig-port-dst", "30053", "--dst-nat", "10.224.0.40")]
    assert list(stale_udp([port(ONE)], [])) == []
    empty = port(protocol="UDP")
    assert list(stale_udp([empty], [port(ONE, protocol="UDP")])) == [
        ("-D", "-p", "udp", "--orig-dst", "10.0.1.1")]


# --- the kernel's opinion

@pytest.fixture
def space(tmp_path):
    name = f"labkit-test-{abs(hash(tmp_path)) % 16**8:08x}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture(params=["legacy", "nft"])
def iptables(request, space):
    return Iptables(request.param, prefix=("ip", "netns", "exec", space))


@pytest.mark.kernel
def test_the_kernel_takes_every_shape_and_gives_it_all_back(iptables):
    ports = [
        port(ONE, TWO), port(name="void", cluster_ip="10.0.1.2", node_port=30001, lb_ips=("192.0.2.8",)),
        port(ONE, TWO, name="lb", cluster_ip="10.0.1.3", lb_ips=("192.0.2.9",), node_port=30002,
             lb_source_ranges=("203.0.113.0/24",), external_ips=("198.51.100.1",)),
        port(ONE, name="local", cluster_ip="10.0.1.4", lb_ips=("192.0.2.10",), node_port=30003,
             external_policy="Local", internal_policy="Local"),
        port(TWO, name="sticky", cluster_ip="10.0.1.5", affinity_seconds=60, protocol="UDP"),
    ]
    first = build(ports, CONFIG)
    iptables.restore(first.text)
    for table, chain, rule in JUMPS:
        iptables.ensure_rule(table, chain, rule)
        iptables.ensure_rule(table, chain, rule)
    assert iptables.save("nat").count("-A PREROUTING") == 1
    assert first.chains <= iptables.chains("nat")
    second = build(ports[:1], CONFIG, first.chains)
    iptables.restore(second.text)
    assert {chain for chain in iptables.chains("nat") if chain.startswith(SERVICE_CHAINS)} == second.chains
    assert remove_chains(iptables, "nat", ("KUBE-",)) > 0
    assert remove_chains(iptables, "filter", ("KUBE-",)) > 0
    assert "KUBE" not in iptables.save("nat") + iptables.save("filter")


FLUSHES = {
    "legacy": [["iptables-legacy", "-t", table, how] for table in ("nat", "filter", "mangle") for how in ("-F", "-X")],
    "nft": [["nft", "flush", "ruleset"]],
}


@pytest.mark.kernel
def test_all_is_back_after_somebody_flushed_all_of_it(iptables, space):
    """The kernel's built-in chains go with nft's, too."""
    proxier = Proxier(CONFIG, Iptables(iptables.variant), partial=True)
    proxier.table.on_service("ADDED", service("web", "10.0.1.1", {"name": "t", "port": 80, "protocol": "TCP"},
                                              {"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053}))
    proxier.table.on_slice("ADDED", slice_of("web", {"t": ("TCP", 8080), "u": ("UDP", 8080)},
                                             endpoint("10.224.0.5", "n1"), endpoint("10.224.0.40", "n2")))

    def held():
        return {table: sorted(line for line in iptables.save(table).splitlines() if line.startswith(("-A", ":KUBE")))
                for table in ("nat", "filter", "mangle")}

    assert netns.run_inside(space, proxier.sync) == []
    right = held()
    assert any("10.224.0.40:8080" in line for line in right["nat"])
    for words in FLUSHES[iptables.variant]:
        netns.run_inside(space, lambda words=words: subprocess.run(words, check=True))
    assert "KUBE" not in str(held())
    netns.run_inside(space, proxier.look_after)
    assert proxier.dirty
    said = netns.run_inside(space, proxier.sync)
    assert "chain KUBE-SERVICES (nat) was missing" in said
    assert held() == right
    netns.run_inside(space, proxier.look_after)
    assert not proxier.dirty


@pytest.mark.kernel
def test_a_refusal_carries_iptables_own_words(iptables):
    with pytest.raises(IptablesError, match=r"line|No chain"):
        iptables.restore("*nat\n-A NOWHERE -j ACCEPT\nCOMMIT\n")
