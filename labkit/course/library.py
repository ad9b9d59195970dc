"""The checks of all lessons."""

from typing import TYPE_CHECKING, Any

from labkit.course.checks import CheckFailed, check
from labkit.course.predictions import say

if TYPE_CHECKING:
    from labkit.lab import Lab

ECHO = "labkit-echo"


def need(holds: object, otherwise: str) -> None:
    """Fail the check with what was found instead, unless it holds."""
    if not holds:
        raise CheckFailed(otherwise)


def measured(lab: "Lab", key: str) -> str:
    """Return what was measured for a prediction; the check fails if nothing was."""
    entry: dict[str, Any] = lab.course.progress.entry("predictions", key) or {}
    need("measured" in entry, f"nothing was measured yet for the prediction {key}")
    unit = entry.get("unit", "")
    return f"expected {say(entry['guess'], unit)}, measured {say(entry['measured'], unit)}"


def ready(obj: dict[str, Any]) -> bool:
    """Return whether a node or pod says Ready."""
    conditions = obj.get("status", {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


@check(
    "00.ready",
    "This machine and the target are ready",
    hint="Run the preflight again: each line that fails says what to do.",
)
def _preflight(lab: "Lab") -> str:
    report = lab.preflight()
    need(report.ok, repr(report))
    return "no preflight check fails"


@check(
    "01.cluster",
    "Azure says that the cluster is there",
    hint="Look at the second card: did its operation end? `az aks show` names its state.",
)
def _cluster(lab: "Lab") -> str:
    if lab.target.arm_url is None:
        return "this target has no Azure; its cluster is taken as it is"
    found = lab.azure.cluster(lab.settings.resource_group, lab.settings.name)
    need(found, f"there is no cluster {lab.settings.name} in {lab.settings.resource_group}")
    state = (found or {}).get("properties", {}).get("provisioningState")
    need(state == "Succeeded", f"provisioningState is {state}")
    return "provisioningState is Succeeded"


@check("01.nodes", "All nodes are ready", hint="`kubectl describe node` shows conditions and events.")
def _nodes(lab: "Lab") -> str:
    nodes = lab.kube.list("nodes")
    count = sum(ready(node) for node in nodes)
    need(nodes and count == len(nodes), f"{count} of {len(nodes)} nodes are ready")
    return f"{count} of {len(nodes)} nodes are ready"


@check(
    "01.calico",
    "Calico runs on every node",
    hint="Was the cluster created with a network policy engine? See `kubectl get pods -n calico-system`.",
)
def _calico(lab: "Lab") -> str:
    facts = lab.facts()
    need(facts.calico_node, "there is no DaemonSet calico-node")
    node = facts.calico_node
    said = f"calico-node {facts.calico_version}: {node.ready if node else 0} of {len(facts.nodes)} ready"
    need(node and facts.nodes and node.ready == len(facts.nodes), said)
    return said


@check(
    "02.service",
    "The service has two back ends",
    hint="Does its selector match the pods' labels? `kubectl get endpointslices -n labkit-echo`.",
)
def _service(lab: "Lab") -> str:
    need(lab.kube.find("services", "look", ECHO), "there is no service look in the namespace labkit-echo")
    slices = lab.kube.list("endpointslices.discovery.k8s.io", ECHO, label_selector="kubernetes.io/service-name=look")
    addresses = [a for s in slices for e in s.get("endpoints") or [] for a in e["addresses"]]
    need(len(addresses) == 2, f"it has {len(addresses)} back ends")
    return f"back ends {', '.join(addresses)}"


@check(
    "02.rules",
    "kube-proxy has a rule that rewrites to each back end",
    hint="Look at the chains KUBE-SEP-… in one kube-proxy pod. Does kube-proxy run at all?",
)
def _rules(lab: "Lab") -> str:
    pods = lab.kube.list("pods", "kube-system", label_selector="component=kube-proxy")
    need(pods, "no kube-proxy runs")
    name = pods[0]["metadata"]["name"]
    rules = lab.kube.exec(name, "kube-system", ["iptables-save", "-t", "nat"]).stdout
    backends = [pod["status"]["podIP"] for pod in lab.kube.list("pods", ECHO, label_selector="app=echo")]
    missing = [ip for ip in backends if f"--to-destination {ip}:8080" not in rules]
    need(backends and not missing, f"no DNAT rule for {', '.join(missing) or 'any pod: there is none'}")
    return f"DNAT rules for {', '.join(backends)}"


@check(
    "03.endpoint",
    "calico-node reaches the API server without a service",
    hint="Which address is in calico-node's environment? What does the ConfigMap say?",
)
def _endpoint(lab: "Lab") -> str:
    facts = lab.facts()
    need(facts.endpoint, "the ConfigMap kubernetes-services-endpoint is missing")
    host = facts.calico_node.env.get("KUBERNETES_SERVICE_HOST") if facts.calico_node else None
    need(host == facts.api_host, f"calico-node uses {host or 'the service address 10.0.0.1'}")
    return f"calico-node uses {host}"


@check(
    "03.bpf",
    "Every node has services in an eBPF map",
    hint="`kubectl logs -n calico-system ds/calico-node` says whether the programs were loaded.",
)
def _bpf(lab: "Lab") -> str:
    from labkit.calico.facts import service_tables

    facts = lab.facts()
    need(facts.bpf_enabled, "FelixConfiguration does not say bpfEnabled: true")
    tables = service_tables(lab.kube)
    empty = [node for node, table in tables.items() if not table]
    need(facts.nodes, "the cluster has no nodes")
    need(len(tables) == len(facts.nodes) and not empty, f"no service map on {', '.join(empty) or 'some node'}")
    return f"service maps on {len(tables)} of {len(facts.nodes)} nodes"


@check(
    "03.kubeproxy",
    "kube-proxy is gone, or Calico lives beside it",
    hint="Which way did the plan take for this cluster, and why? The line above the cards says it.",
)
def _kube_proxy(lab: "Lab") -> str:
    facts = lab.facts()
    if facts.kube_proxy is None or facts.kube_proxy.desired == 0:
        return "kube-proxy fits no node"
    beside = facts.felix.get("bpfKubeProxyIptablesCleanupEnabled") is False
    need(beside, f"kube-proxy runs on {facts.kube_proxy.desired} nodes and Calico removes its rules")
    return f"kube-proxy runs on {facts.kube_proxy.desired} nodes and Calico leaves its rules alone"


@check("03.reach", "A client outside gets an answer", hint="`lab.diagnose()` looks at each part of the way.")
def _reach(lab: "Lab") -> str:
    client = lab.source_ip.clients[0]
    answer = lab.source_ip.ask(client)[0]
    need(answer.ok, f"{client}: {getattr(answer, 'error', '')}")
    return f"{client} was answered within {answer.milliseconds:.0f} ms"


@check("04.measured", "TCP was measured and compared", hint="Run the benchmark's cell, then the one after it.")
def _measured_flows(lab: "Lab") -> str:
    return measured(lab, "04.tcp")


@check("05.measured", "First packets were measured and compared", hint="Run the measurement's cell and the next.")
def _measured_scale(lab: "Lab") -> str:
    return measured(lab, "05.slope")


@check("06.kept", "The pod sees every client's own address", hint="Which data plane is on? Ask `lab.dataplane()`.")
def _kept(lab: "Lab") -> str:
    answers = [answer for client in lab.source_ip.clients for answer in lab.source_ip.ask(client, times=3)]
    lost = [a for a in answers if not (a.ok and getattr(a, "preserved", False))]
    need(not lost, f"{len(lost)} of {len(answers)} connections came with another address, or not at all")
    return f"{len(answers)} of {len(answers)} connections came with the client's address"


@check(
    "07.only",
    "The policy lets in whom it names, and nobody else",
    hint="Is the policy there, and is the data plane one that keeps addresses?",
)
def _only(lab: "Lab") -> str:
    policies = lab.kube.list("networkpolicies.networking.k8s.io", ECHO)
    need(policies, "there is no NetworkPolicy in the namespace labkit-echo")
    rules = [rule for policy in policies for rule in policy["spec"].get("ingress") or []]
    named = {peer["ipBlock"]["cidr"] for rule in rules for peer in rule.get("from") or [] if "ipBlock" in peer}
    said = []
    for client in lab.target.outside_clients:
        ok = all(answer.ok for answer in lab.source_ip.ask(client.name, times=3, timeout=1))
        allowed = f"{client.address}/32" in named or not client.address
        need(ok == allowed, f"{client.name} {'got in' if ok else 'was kept out'}; the policy says otherwise")
        said.append(f"{client.name} {'gets in' if ok else 'is kept out'}")
    return ", ".join(said)


@check("08.map", "The service stands in every node's map", hint="Compare `calico-node -bpf nat dump` on both nodes.")
def _map(lab: "Lab") -> str:
    from labkit.calico.facts import service_tables

    service = lab.kube.find("services", "echo", ECHO)
    need(service, "there is no service echo in the namespace labkit-echo")
    address = (service or {})["spec"]["clusterIP"]
    tables = service_tables(lab.kube)
    without = [node for node, table in tables.items() if address not in table]
    need(tables and not without, f"{address} is missing on {', '.join(without) or 'all nodes'}")
    return f"{address} is in the maps of {len(tables)} nodes"


@check("09.healthy", "The doctor finds nothing", hint="Run `lab.diagnose()`: each finding names its cure.")
def _healthy(lab: "Lab") -> str:
    report = lab.diagnose()
    need(report.ok, repr(report))
    return "no finding"


@check("10.gone", "The resource group is gone", hint="Run the plan's cards; on AKS deleting takes minutes.")
def _gone(lab: "Lab") -> str:
    if lab.target.arm_url is None:
        return "this target has no Azure; delete its cluster with the tool that made it"
    need(lab.azure.group(lab.settings.resource_group) is None, f"{lab.settings.resource_group} still exists")
    return f"there is no resource group {lab.settings.resource_group}"
