"""`trace(client, service)`: send one connection, and tell the way that it took from what was captured."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from labkit import calico, targets
from labkit.errors import ExecError, LabError, NotFoundError
from labkit.kube import Kube, Obj, kubeconfig
from labkit.kube.wait import is_ready
from labkit.sourceip import manifests, outside, trace_capture, trace_packets, trace_path
from labkit.sourceip.trace_capture import Post, node_pod
from labkit.sourceip.trace_model import Place, Trace
from labkit.sourceip.trace_path import Answered, Capture, Question, SentAgainError, Table
from labkit.targets import Target

OWN_POD = "pod"
"""As a client: a pod that the trace makes for itself, on another node than the service's pod where there is one."""

_TRIES = 8
"""How many connections are sent in search of one with a detour, or of one that need not be sent twice."""

_VXLAN_PORT = 4789
_END = re.compile(r"\[?(?:::ffff:)?([0-9a-fA-F.:]+?)\]?:(\d+)")
_CURL = "curl -s -m {timeout:g} -w '\\n%{{local_ip}}:%{{local_port}} %{{remote_ip}}:%{{remote_port}}' http://{asked}/clientip"


def trace(client: str, service: str = f"{manifests.NAMESPACE}/{manifests.NAME}", *, port: int | None = None,
          detour: bool = False, timeout: float = 3.0, kube: Kube | None = None, target: Target | None = None) -> Trace:
    """Send one TCP connection and return every hop that it took.

    For the time of the trace a pod in each node's network namespace captures with tcpdump, and so does tcpdump in
    the pods at both ends where one of their containers has it (`expose(…, capture=True)` sees to that for the
    echo service). Nothing stays.

    Args:
        client: the name of a client outside, such as "alice"; a pod, as "namespace/name"; or "pod", for one that
            is made for the trace.
        service: "namespace/name". A client outside asks its load balancer's address, a pod its cluster IP.
        port: of the service; None means its first TCP port.
        detour: send further connections, up to eight, until one comes in by another node than the pod's.
        timeout: seconds to wait for an answer.
        kube: the cluster; None means the one of the target's kubeconfig.
        target: knows the clients outside; None means LABKIT_TARGET, else local.

    Raises:
        LabError: there is no such service, pod or address, or the connection reached no pod.
        TargetError: there is no such client.
        NotSupportedError: the cluster refuses pods in the nodes' network.
    """
    target = target or targets.open_target()
    if kube is not None:
        return _trace(kube, target, client, service, port, timeout, detour=detour)
    opened = Kube(kubeconfig.load(target.kubeconfig or kubeconfig.default_path()), target.context)
    try:
        return _trace(opened, target, client, service, port, timeout, detour=detour)
    finally:
        opened.close()


@dataclass(frozen=True)
class _Service:
    """What of a service a trace needs."""

    name: str
    cluster_ip: str
    external_ip: str
    kind: str
    port: int
    node_port: int
    backend_port: int
    pods: tuple[Obj, ...]


def _trace(kube: Kube, target: Target, client: str, service: str, port: int | None, timeout: float,
           *, detour: bool) -> Trace:
    found = _service(kube, service, port)
    who, outsider = _client(kube, target, client, found)
    asked = _asked(found, outside=outsider is not None)
    nodes = tuple(_node(n) for n in kube.list("nodes") if is_ready(n))
    plane = calico.observe(kube).dataplane
    own = who.node if client == OWN_POD else None
    with trace_capture.pods_for(kube, nodes, client_on=own) as namespace:
        if own:
            who = _place(kube.get("pods", "client", namespace))
        posts = [Post(node, namespace, node_pod(node.node), None) for node in nodes]
        posts += [_post(pod) for pod in found.pods if not pod["spec"].get("hostNetwork")]
        at = _post(kube.get("pods", *reversed(who.name.split("/")))) if who.kind == "pod" else None
        if at and all(post.place != who for post in posts):
            posts.append(at)
        ports = {found.port, found.backend_port, found.node_port} - {0}
        tcp = " or ".join(f"tcp port {number}" for number in sorted(ports))
        pods = tuple(_place(pod) for pod in found.pods)
        question = Question(who, service, asked, plane, pods, found.backend_port, nodes)
        for left in reversed(range(_TRIES)):
            with trace_capture.captures(kube, posts, f"{tcp} or udp port {_VXLAN_PORT}") as running:
                answered = (_ask_from_pod(kube, at, asked, timeout) if at
                            else _ask_outside(outsider or target.client(client), asked, timeout))
                seen = [Capture(place, trace_packets.parse(lines)) for place, lines in running.read()]
            tables, missing = _tables(kube, namespace, nodes, plane)
            try:
                told = trace_path.assemble(question, seen, tables, answered, (*running.notes, *missing))
            except SentAgainError:
                if not left:
                    raise
                continue
            # What got no answer is sent again and again, and would be mixed in.
            if told.detour or not detour or answered.error:
                return told
    note = f"None of {_TRIES} connections came in by another node than the pod's."
    return replace(told, notes=(*told.notes, note))


# Whom and what


def _service(kube: Kube, service: str, port: int | None) -> _Service:
    namespace, slash, name = service.partition("/")
    if not slash:
        raise LabError(f"{service!r} does not name a service.", "its namespace is missing.",
                       f'write "namespace/name", such as "{manifests.NAMESPACE}/{manifests.NAME}".')
    obj = kube.find("services", name, namespace)
    if obj is None:
        here = ", ".join(s["metadata"]["name"] for s in kube.list("services", namespace)) or "none"
        raise LabError(f"There is no service {service}.", f"services of the namespace {namespace}: {here}.",
                       "the echo service is made by `lab.run(lab.source_ip.expose(capture=True))`.")
    if elsewhere := obj["spec"].get("externalName"):
        raise LabError(f"The service {service} has no address.", f"its name stands for {elsewhere}, and DNS says so.",
                       "trace to a service with pods of this cluster.")
    tcp = [p for p in obj["spec"].get("ports") or [] if p.get("protocol", "TCP") == "TCP"]
    chosen = next((p for p in tcp if port in (None, p["port"])), None)
    if chosen is None:
        has = ", ".join(str(p["port"]) for p in tcp) or "none"
        raise LabError(f"The service {service} has no TCP port{f' {port}' if port else ''}.",
                       f"its TCP ports: {has}.", "a trace follows one TCP connection: name a port that it has.")
    backend_port, pods = _backends(kube, namespace, name, chosen.get("name"))
    if not pods:
        raise LabError(f"The service {service} has no ready pod.", "nobody would answer.",
                       f"`kubectl get endpointslices,pods -n {namespace}` shows what is there.")
    ingress = (obj.get("status", {}).get("loadBalancer") or {}).get("ingress") or []
    return _Service(
        service, obj["spec"].get("clusterIP") or "None", next((str(i["ip"]) for i in ingress if i.get("ip")), ""),
        obj["spec"].get("type", "ClusterIP"), chosen["port"], chosen.get("nodePort", 0), backend_port, pods)


def _backends(kube: Kube, namespace: str, name: str, port_name: str | None) -> tuple[int, tuple[Obj, ...]]:
    """The port and the pods behind a service's port."""
    ready, number = set(), 0
    for part in kube.list("endpointslices.discovery.k8s.io", namespace,
                          label_selector=f"kubernetes.io/service-name={name}"):
        for port in part.get("ports") or []:
            if (port.get("name") or "") == (port_name or ""):
                number = port.get("port") or number
        ready |= {e["targetRef"]["name"] for e in part.get("endpoints") or []
                  if (e.get("conditions") or {}).get("ready", True) and e.get("targetRef", {}).get("kind") == "Pod"}
    pods = tuple(p for p in kube.list("pods", namespace) if p["metadata"]["name"] in ready) if ready else ()
    return number, pods


def _client(kube: Kube, target: Target, client: str,
            service: _Service) -> tuple[Place, targets.OutsideClient | None]:
    if client == OWN_POD:
        taken = {pod["spec"]["nodeName"] for pod in service.pods}
        names = sorted(n["metadata"]["name"] for n in kube.list("nodes") if is_ready(n))
        return Place("pod", "", next((n for n in names if n not in taken), names[0])), None
    if "/" not in client:
        if client and kube.find("nodes", client):
            raise LabError(f"{client} is a node.", "a trace follows a connection of a pod or of a client outside.",
                           f"trace from a pod on it, or as {OWN_POD!r}.")
        who = target.client(client)
        return Place("client", who.name, "", who.address), who
    namespace, _, name = client.partition("/")
    try:
        pod = kube.get("pods", name, namespace)
    except NotFoundError as error:
        here = ", ".join(p["metadata"]["name"] for p in kube.list("pods", namespace)) or "none"
        raise LabError(f"There is no pod {client}.", f"pods of the namespace {namespace}: {here}.",
                       f'name one of them, or ask as {OWN_POD!r}: a pod that is made for the trace.') from error
    if not is_ready(pod):
        raise LabError(f"The pod {client} is not ready.", f"it is {pod.get('status', {}).get('phase', '?')}.",
                       f"`kubectl describe pod -n {namespace} {name}` says why.")
    if pod["spec"].get("hostNetwork"):
        raise LabError(f"The pod {client} has no network of its own.", "it uses its node's.",
                       f"trace from another pod, or as {OWN_POD!r}.")
    return _place(pod), None


def _asked(service: _Service, *, outside: bool) -> str:
    if outside:
        if service.external_ip:
            return f"{service.external_ip}:{service.port}"
        why = ("the load balancer is not made yet." if service.kind == "LoadBalancer"
               else f"its type is {service.kind}.")
        raise LabError(f"The service {service.name} has no address for clients outside.", why,
                       "make it a LoadBalancer and wait for its address, or trace from a pod.")
    if service.cluster_ip == "None":
        raise LabError(f"The service {service.name} has no cluster IP.",
                       "it is headless: clients find its pods by DNS.", "trace to a service that has one.")
    return f"{service.cluster_ip}:{service.port}"


def _node(obj: Obj) -> Place:
    name = obj["metadata"]["name"]
    address = next((a["address"] for a in obj["status"].get("addresses") or [] if a["type"] == "InternalIP"), "")
    return Place("node", name, name, address)


def _place(pod: Obj) -> Place:
    meta = pod["metadata"]
    return Place("pod", f"{meta['namespace']}/{meta['name']}", pod["spec"]["nodeName"],
                 pod["status"].get("podIP", ""))


def _post(pod: Obj) -> Post:
    """Where a pod is captured in: its container that is made for it, else its first."""
    names = [c["name"] for c in pod["spec"]["containers"]]
    container = trace_capture.CONTAINER if trace_capture.CONTAINER in names else names[0]
    return Post(_place(pod), pod["metadata"]["namespace"], pod["metadata"]["name"], container)


# The connection


def _ask_outside(client: targets.OutsideClient, asked: str, timeout: float) -> Answered:
    address, _, port = asked.rpartition(":")
    reply = outside.get(client, address, int(port), "/clientip", timeout=timeout)
    # An HTTP error is an answer, too: not every service knows /clientip.
    error = "" if reply.error.startswith("HTTP ") else reply.error
    return Answered(said=_said(reply.texts[0] if reply.texts else ""), error=error)


def _ask_from_pod(kube: Kube, at: Post, asked: str, timeout: float) -> Answered:
    client, curl = at.place, _CURL.format(asked=asked, timeout=timeout)
    try:
        output = kube.exec(at.pod, at.namespace, ["sh", "-c", curl], container=at.container, check=False,
                           timeout=timeout + 10)
    except ExecError as error:
        raise LabError(f"No connection could be made from the pod {client.name}.", error.why or error.what,
                       f"trace from a pod with a shell and curl, or as {OWN_POD!r}.") from error
    if output.exit_code in (126, 127):
        raise LabError(f"The pod {client.name} cannot ask.", output.stderr.strip() or "it has no curl.",
                       f"trace from a pod with a shell and curl, or as {OWN_POD!r}.")
    body, _, ends = output.stdout.rpartition("\n")
    local, _, peer = ends.partition(" ")
    if output.exit_code:
        return Answered(_said(local), _said(peer), error=f"curl ended with code {output.exit_code}")
    return Answered(_said(local), _said(peer), _said(body))


def _said(text: str) -> str:
    """An "address:port" in its plain form; "" for anything else."""
    found = _END.fullmatch(text.strip())
    return f"{found[1]}:{found[2]}" if found and found[2] != "0" else ""


# The tables


def _tables(kube: Kube, namespace: str, nodes: tuple[Place, ...],
            plane: str) -> tuple[list[Table], list[str]]:
    """The kernel's connection tracking on each node and, with eBPF, Calico's maps; and what could not be read."""
    wanted: list[tuple[str, str, str, str | None, str]] = [
        (node.node, namespace, node_pod(node.node), None, "conntrack -L -p tcp") for node in nodes]
    if plane == "ebpf":
        for pod in kube.list("pods", None, label_selector="k8s-app=calico-node"):
            meta = pod["metadata"]
            wanted += [(pod["spec"].get("nodeName", ""), meta["namespace"], meta["name"], "calico-node",
                        f"calico-node -bpf {table} dump") for table in ("conntrack", "nat")]

    def read(one: tuple[str, str, str, str | None, str]) -> Table | str:
        node, where, pod, container, command = one
        try:
            output = kube.exec(pod, where, command.split(), container=container, timeout=30)
        except ExecError as error:
            return f"`{command}` could not be read on node {node}: {error.why or error.what}"
        return Table(node, command, tuple(output.stdout.splitlines()))

    results = trace_capture.each(read, wanted)
    return ([r for r in results if isinstance(r, Table)], [r for r in results if isinstance(r, str)])
