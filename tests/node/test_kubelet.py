from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from labkit.local.client import ApiError, Obj
from labkit.local.kubeapi import Api
from labkit.local.node import Nodes, kubelet
from labkit.local.node.runtime import process_end
from labkit.local.programs import metrics_server

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = pytest.mark.kernel


def test_a_pod_starts_and_ends_without_a_trace(lab: Lab) -> None:
    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("first")
        await lab.until(lambda: lab.ready("first"))
        lab.pod("p0")
        await lab.until(lambda: lab.ready("p0"))
        status = lab.status("p0")
        assert status["phase"] == "Running"
        assert status["podIP"] in lab.net.pod_ips
        assert (status["hostIP"], status["qosClass"]) == (lab.net.ip, "BestEffort")
        code, printed = await lab.run("p0", ["hostname"])
        assert (code, printed.strip()) == (0, "p0")
        uid = lab.api.get("pods", "p0", "default")["metadata"]["uid"]
        lab.api.delete("pods", "p0", "default")
        await lab.until(lambda: lab.gone("p0"))
        assert not lab.kubelet.cgroup(uid).exists()
        assert not lab.kubelet.folder(uid).exists()

    asyncio.run(scenario())


def test_completion_failure_and_logs(lab: Lab) -> None:
    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("good", "echo out; echo err >&2; printf tail", spec={"restartPolicy": "Never"})
        lab.pod("bad", "echo broken; exit 7", spec={"restartPolicy": "Never"})
        await lab.until(lambda: lab.status("good").get("phase") == "Succeeded")
        await lab.until(lambda: lab.status("bad").get("phase") == "Failed")
        assert lab.state("good")["state"]["terminated"]["reason"] == "Completed"
        ended = lab.state("bad")["state"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (7, "Error")
        assert sorted((await lab.log("good")).split()) == ["err", "out", "tail"]
        assert await lab.log("bad", tail=1) == "broken\n"
        assert (await lab.log("bad", timestamps=True)).endswith("Z broken\n")
        assert await lab.log("bad", limit_bytes=3) == "bro"
        with pytest.raises(ApiError, match="previous terminated container"):
            await lab.log("bad", previous=True)
        with pytest.raises(ApiError, match="completed pod"):
            await lab.run("bad", ["true"])

    asyncio.run(scenario())


def test_a_crash_is_restarted_then_backed_off(lab: Lab) -> None:
    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("crash", "echo attempt; exit 1")
        await lab.until(lambda: lab.state("crash").get("restartCount") == 1)
        await lab.until(lambda: lab.state("crash")["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff")
        assert lab.state("crash")["lastState"]["terminated"]["exitCode"] == 1
        assert await lab.log("crash", previous=True) == "attempt\n"
        assert {e["reason"] for e in lab.api.list("events")} >= {"Pulled", "Created", "Started", "BackOff"}

    asyncio.run(scenario())


def test_what_is_missing_is_said_and_repaired(lab: Lab) -> None:
    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("unknown", image="example.com/nobody/knows:1")
        lab.pod("config", "echo $GREETING; sleep 100", env=[
            {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "words", "key": "hello"}}}])
        await lab.until(lambda: lab.state("unknown")["state"].get("waiting", {}).get("reason") == "ErrImagePull")
        event = next(e for e in lab.api.list("events") if "Failed to pull" in e["message"])
        assert "nicolaka/netshoot" in event["message"]
        with pytest.raises(ApiError, match="can't be pulled"):
            await lab.log("unknown")
        await lab.until(
            lambda: lab.state("config")["state"].get("waiting", {}).get("reason") == "CreateContainerConfigError")
        lab.api.create("configmaps", {"metadata": {"name": "words", "namespace": "default"}, "data": {"hello": "hi"}})
        await lab.until(lambda: lab.ready("config"))
        assert await lab.says("config", "\n") == "hi\n"

    asyncio.run(scenario())


def test_volumes_environment_and_service_account(lab: Lab) -> None:
    script = """
        cat /etc/app/one /etc/secret/key; echo "$NAME $IP $BOTH $KUBERNETES_SERVICE_HOST"
        test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token
        cat /var/run/secrets/kubernetes.io/serviceaccount/ca.crt; echo
        echo shared > /scratch/file; cat /etc/resolv.conf; sleep 100"""

    async def scenario() -> None:
        lab.api.create("configmaps", {"metadata": {"name": "app", "namespace": "default"}, "data": {"one": "1\n"}})
        lab.api.create("secrets", {"metadata": {"name": "s", "namespace": "default"}, "data": {"key": "c2VjcmV0Cg=="}})
        await lab.kubelet.start()
        lab.pod("full", script, env=[
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "BOTH", "value": "$(NAME)-$(UNKNOWN)-$$x"},
        ], volumeMounts=[
            {"name": "app", "mountPath": "/etc/app"}, {"name": "s", "mountPath": "/etc/secret"},
            {"name": "scratch", "mountPath": "/scratch"},
            {"name": "sa", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True},
        ], spec={"volumes": [
            {"name": "app", "configMap": {"name": "app"}}, {"name": "s", "secret": {"secretName": "s"}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "sa", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}},
        ]})
        await lab.until(lambda: lab.ready("full"))
        printed = await lab.says("full", "options ndots")
        ip = lab.status("full")["podIP"]
        assert printed.startswith("1\nsecret\n")
        assert f"full {ip} full-$(UNKNOWN)-$x 10.0.0.1\ntoken\nlab ca\n" in printed
        assert "nameserver 10.0.0.10" in printed
        assert "search default.svc.cluster.local" in printed

    asyncio.run(scenario())


def test_volumes_are_mounted_where_the_machine_has_no_such_folder(lab: Lab) -> None:
    script = """
        cat /usr/share/nonesuch/html/index.html /usr/share/nonesuch/one.txt
        ls /usr/share | grep -c . ; touch /usr/share/nonesuch/html/x && echo written; sleep 100"""

    async def scenario() -> None:
        lab.api.create("configmaps", {"metadata": {"name": "page", "namespace": "default"},
                                      "data": {"index.html": "<p>hello\n"}})
        await lab.kubelet.start()
        lab.pod("web", script, volumeMounts=[
            {"name": "page", "mountPath": "/usr/share/nonesuch/html"},
            {"name": "page", "mountPath": "/usr/share/nonesuch/one.txt", "subPath": "index.html"},
        ], spec={"volumes": [{"name": "page", "configMap": {"name": "page"}}]})
        await lab.until(lambda: lab.ready("web"))
        lines = (await lab.says("web", "written")).splitlines()
        assert lines[:2] == ["<p>hello", "<p>hello"]
        assert int(lines[2]) == len([n for n in os.listdir("/usr/share") if not n.startswith(".")]) + 1
        assert lines[3:] == ["written"]
        assert not os.path.exists("/usr/share/nonesuch")

    asyncio.run(scenario())


def test_init_containers_run_before(lab: Lab) -> None:
    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("two-steps", "cat /work/ready; sleep 100", volumeMounts=[{"name": "w", "mountPath": "/work"}], spec={
            "volumes": [{"name": "w", "emptyDir": {}}],
            "initContainers": [{"name": "init", "image": "busybox", "command": ["sh", "-c", "echo done > /work/ready"],
                                "volumeMounts": [{"name": "w", "mountPath": "/work"}]}]})
        await lab.until(lambda: lab.ready("two-steps"))
        assert await lab.says("two-steps", "\n") == "done\n"
        assert lab.status("two-steps")["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0

    asyncio.run(scenario())


def test_probes(lab: Lab) -> None:
    async def scenario() -> None:
        await lab.kubelet.start()
        serve = "mkdir -p /www; cd /www; sleep 0.5; echo ok > ready; exec busybox httpd -f -p 8080"
        lab.pod("web", serve, readinessProbe={"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 10})
        lab.pod("exec", "sleep 1000", livenessProbe={
            "exec": {"command": ["test", "-e", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 1})
        assert not lab.ready("web")
        await lab.until(lambda: lab.ready("web"))
        await lab.until(lambda: lab.state("exec").get("restartCount") == 1)
        assert any("Liveness probe failed" in e["message"] for e in lab.api.list("events"))
        reader, writer = await lab.nodes.dial(lab.net.name, lab.status("web")["podIP"], 8080, tls=False)
        writer.write(b"GET /ready HTTP/1.0\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 60)).endswith(b"\r\n\r\nok\n")
        writer.close()
        code, body, _ = await lab.nodes.kubelet(lab.net.name, "/pods?x=1")
        assert (code, {p["metadata"]["name"] for p in json.loads(body)["items"]}) == (200, {"web", "exec"})
        summary = json.loads((await lab.nodes.kubelet(lab.net.name, "/stats/summary"))[1])
        web = next(p for p in summary["pods"] if p["podRef"]["name"] == "web")["containers"][0]
        assert web["cpu"]["usageCoreNanoSeconds"] > 0 < web["memory"]["workingSetBytes"]
        points = metrics_server.parse("n", (await lab.nodes.kubelet(lab.net.name, "/metrics/resource"))[1].decode())
        point = points["default", "web", "main"]
        assert 0 < point.started <= point.at <= time.time()
        assert min(point.cpu, points["n",].cpu - point.cpu, point.memory, points["n",].memory - point.memory) > 0
        assert (await lab.nodes.kubelet(lab.net.name, "/nope"))[0] == 404
        logs = lab.kubelet.host_disk() / "var/log"
        (logs / "a.log").write_text("said")
        (logs / "out").symlink_to("/etc/hostname")          # as a pod could leave one
        assert (await lab.nodes.kubelet(lab.net.name, "/logs/"))[1].startswith(b'<pre>\n<a href="a.log">a.log</a>\n')
        assert (await lab.nodes.kubelet(lab.net.name, "/logs/a.log"))[1] == b"said"
        for path in ("out", "../../../x"):
            assert (await lab.nodes.kubelet(lab.net.name, f"/logs/{path}"))[0] == 404

    asyncio.run(scenario())


def test_exec_with_stdin_terminal_and_failure(lab: Lab) -> None:
    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("box")
        await lab.until(lambda: lab.ready("box"))
        assert await lab.run("box", ["cat"], b"through") == (0, "through")
        assert (await lab.run("box", ["sh", "-c", "exit 5"]))[0] == 5
        assert await lab.run("box", ["tty"], tty=True) == (0, "/dev/pts/0\r\n")
        with pytest.raises(ApiError, match="executable file not found"):
            await lab.run("box", ["no-such-command"])
        lab.pod("listener", "while true; do echo pong | nc -l -p 7000; done", startupProbe={
            "exec": {"command": ["sh", "-c", "ss -ltn | grep -q :7000"]}, "periodSeconds": 1, "failureThreshold": 60})
        await lab.until(lambda: lab.ready("listener"))
        reader, writer = await lab.nodes.port_forward("default", "listener", 7000)
        assert await asyncio.wait_for(reader.readline(), 60) == b"pong\n"
        writer.close()

    asyncio.run(scenario())


def test_a_client_attaches_to_stdin(lab: Lab) -> None:
    async def scenario() -> None:
        await lab.kubelet.start()
        once = {"spec": {"restartPolicy": "Never", "securityContext": {"runAsUser": 1000}}, "stdin": True,
                "stdinOnce": True}
        lab.pod("run-i", "echo early; cat; exit 4", **once)
        await lab.until(lambda: lab.ready("run-i"))
        await lab.says("run-i", "early")
        process = await lab.nodes.attach("default", "run-i", "main", stdin=True, tty=False)
        await process.write(b"typed\n")
        await process.write(b"")
        printed = b"".join([data async for _, data in process.output()])
        assert printed == b"early\ntyped\n", "it ends with its client, who saw everything"
        await lab.until(lambda: lab.status("run-i").get("phase") == "Failed")
        assert lab.state("run-i")["state"]["terminated"]["exitCode"] == 4

        lab.pod("shell", "test -t 0 && echo early; while read x; do echo got $x; stty size; done; echo end",
                spec={"restartPolicy": "Never"}, stdin=True, tty=True)
        await lab.until(lambda: lab.ready("shell"))
        await lab.says("shell", "early")
        process = await lab.nodes.attach("default", "shell", "main", stdin=True, tty=True)
        seen: list[bytes] = []

        async def look() -> None:
            seen.extend([data async for _, data in process.output()])

        looking = asyncio.ensure_future(look())
        await asyncio.sleep(0)
        process.resize(33, 44)
        await process.write(b"a\n")
        await lab.says("shell", "33 44")
        await process.write(b"")
        await looking
        printed = b"".join(seen)
        process.kill()
        assert b"got a" in printed
        assert b"end" in printed, "a terminal's end of file"
        assert b"early" not in printed, "what was printed before is in the log"

        lab.pod("closed")
        await lab.until(lambda: lab.ready("closed"))
        process = await lab.nodes.attach("default", "closed", "main", stdin=True, tty=False)
        await process.write(b"nobody reads this")
        process.kill()

    asyncio.run(scenario())


def test_a_pod_has_few_rights(lab: Lab) -> None:
    script = "touch /usr/x 2>&1; ip link add d0 type dummy 2>&1; cat /etc/shadow 2>&1; ls /home /root; sleep 100"

    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("plain", script)
        lab.pod("user", "id -u; cat /etc/passwd > /dev/null && echo reads; sleep 100",
                securityContext={"runAsUser": 1000})
        await lab.until(lambda: lab.ready("plain") and lab.ready("user"))
        printed = await lab.says("plain", "No such file")
        assert "Read-only file system" in printed
        assert "not permitted" in printed
        assert await lab.says("user", "reads\n") == "1000\nreads\n"
        assert await lab.run("user", ["sh", "-c", "tty > /dev/tty"], tty=True) == (0, "/dev/pts/0\r\n")

    asyncio.run(scenario())


def test_pods_survive_the_daemon_and_are_adopted(lab: Lab) -> None:
    async def first() -> tuple[int, str]:
        await lab.kubelet.start()
        lab.pod("survivor", "echo started; sleep 1000")
        until_told = "trap 'exit {}' TERM; echo up; while true; do sleep 0.02; done"
        lab.pod("ends-meanwhile", until_told.format(3), spec={"restartPolicy": "Never"})
        lab.pod("crashes-meanwhile", until_told.format(4))
        await lab.until(lambda: all(lab.ready(n) for n in ("survivor", "ends-meanwhile", "crashes-meanwhile")))
        worker = lab.kubelet.worker("default", "survivor")
        assert worker
        pid, ip = worker.containers.running["main"].pid, lab.status("survivor")["podIP"]
        ends = []
        for name in ("ends-meanwhile", "crashes-meanwhile"):
            await lab.says(name, "up")
            ends.append(lab.kubelet.worker("default", name).containers.running["main"].pid)
        await lab.kubelet.stop(kill_pods=False)
        for end in ends:
            os.kill(end, signal.SIGTERM)
            await process_end(end)
        return pid, ip

    async def second(pid: int, ip: str) -> None:
        os.kill(pid, 0)
        lab.kubelet = lab.make_kubelet()
        seen: list[bool] = []
        watch = lab.api.watch("pods", lambda _, pod: seen.append(lab.ready("survivor")) if pod["metadata"]["name"] ==
                              "survivor" else None)
        await lab.kubelet.start()
        await lab.until(lambda: "terminated" in (lab.state("crashes-meanwhile").get("lastState") or {}))
        assert lab.state("crashes-meanwhile")["restartCount"] == 1
        assert lab.state("crashes-meanwhile")["lastState"]["terminated"]["exitCode"] == 4
        watch.close()
        assert seen
        assert all(seen), "a pod that runs stays ready while its node's agent starts again"
        await lab.until(lambda: lab.status("ends-meanwhile").get("phase") == "Failed")
        assert lab.state("ends-meanwhile")["state"]["terminated"]["exitCode"] == 3
        await lab.until(
            lambda: any("main" in w.containers.running for w in lab.kubelet.workers() if w.name == "survivor"))
        worker = lab.kubelet.worker("default", "survivor")
        assert worker
        assert worker.containers.running["main"].pid == pid
        assert lab.status("survivor")["podIP"] == ip
        assert lab.state("survivor")["restartCount"] == 0
        assert (await lab.run("survivor", ["echo", "again"]))[1] == "again\n"
        assert await lab.log("survivor") == "started\n"
        lab.api.delete("pods", "survivor", "default")
        await lab.until(lambda: lab.gone("survivor"))

    asyncio.run(second(*asyncio.run(first())))


def test_a_pod_on_the_nodes_network(lab: Lab) -> None:
    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("host", "hostname; cat /sys/class/net/eth0/address; sleep 100", spec={"hostNetwork": True})
        await lab.until(lambda: lab.ready("host"))
        assert lab.status("host")["podIP"] == lab.net.ip
        printed = (await lab.says("host", ":")).splitlines()
        assert printed[0] == lab.net.name
        code, addresses = await lab.run("host", ["ip", "-4", "-o", "addr", "show", "dev", "eth0"])
        assert code == 0
        assert f"{lab.net.ip}/16" in addresses

    asyncio.run(scenario())


def test_a_log_is_followed_until_its_container_ends(lab: Lab) -> None:
    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("talks", "echo 1; until test -e /tmp/go; do sleep 0.02; done; echo 2", spec={"restartPolicy": "Never"})
        await lab.until(lambda: lab.ready("talks"))
        followed = asyncio.ensure_future(lab.log("talks", follow=True))
        await lab.says("talks", "1")
        assert (await lab.run("talks", ["touch", "/tmp/go"]))[0] == 0
        async with asyncio.timeout(60):
            assert await followed == "1\n2\n"

    asyncio.run(scenario())


def test_a_hook_runs_before_a_container_is_stopped(lab: Lab) -> None:
    script = "trap 'echo term; exit 0' TERM; echo up; while true; do sleep 0.02; done"
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo hook > /proc/1/root/tmp/seen; sleep 0.2"]}},
            "postStart": {"exec": {"command": ["touch", "/tmp/begun"]}}}

    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("hooked", script, lifecycle=hook, spec={"terminationGracePeriodSeconds": 100})
        lab.pod("unhooked", "exec sleep 1000", lifecycle={"postStart": {"exec": {"command": ["false"]}}},
                spec={"restartPolicy": "Never", "terminationGracePeriodSeconds": 30})
        await lab.until(lambda: lab.ready("hooked"))
        assert (await lab.run("hooked", ["test", "-e", "/tmp/begun"]))[0] == 0, "before the container counts as running"
        await lab.until(lambda: lab.status("unhooked").get("phase") == "Failed")
        assert any(e["reason"] == "FailedPostStartHook" for e in lab.api.list("events"))
        followed = asyncio.ensure_future(lab.log("hooked", follow=True))
        await lab.says("hooked", "up")
        lab.api.delete("pods", "hooked", "default")
        took = await lab.until(lambda: lab.gone("hooked"))
        assert took > 0.2, "the hook first, then the signal, and no waiting for the rest of the grace period"
        assert await followed == "up\nterm\n"

    asyncio.run(scenario())


def test_a_readiness_gate_is_opened_and_shut_by_others(lab: Lab) -> None:
    def say(verdict: str) -> None:
        condition = {"type": "example.com/lb", "status": verdict}
        lab.api.patch("pods", "gated", {"status": {"conditions": [condition]}}, "default", type="strategic",
                      subresource="status")

    def why() -> str:
        return next(str(c.get("message")) for c in lab.status("gated")["conditions"] if c["type"] == "Ready")

    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("gated", spec={"readinessGates": [{"conditionType": "example.com/lb"}]})
        await lab.until(lambda: lab.state("gated").get("ready"))
        assert not lab.ready("gated")
        assert why() == 'corresponding condition of pod readiness gate "example.com/lb" does not exist.'
        say("True")
        await lab.until(lambda: lab.ready("gated"))
        say("False")
        await lab.until(lambda: not lab.ready("gated"))
        assert why() == 'the status of pod readiness gate "example.com/lb" is not "True", but False'

    asyncio.run(scenario())


def test_a_pod_that_ends_is_ready_for_as_long_as_its_probe_says(lab: Lab) -> None:
    """So its endpoint still serves: what is under way goes on, and who has no other goes there."""
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "until test -e /tmp/go; do sleep 0.02; done"]}}}
    probe = {"exec": {"command": ["test", "!", "-e", "/tmp/closed"]}, "periodSeconds": 1, "failureThreshold": 1}

    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("drains", lifecycle=hook, readinessProbe=probe, spec={"terminationGracePeriodSeconds": 300})
        await lab.until(lambda: lab.ready("drains"))
        lab.api.delete("pods", "drains", "default")
        await lab.until(lambda: any(e["reason"] == "Killing" for e in lab.api.list("events")))
        assert (await lab.run("drains", ["true"]))[0] == 0
        assert lab.ready("drains")
        assert (await lab.run("drains", ["touch", "/tmp/closed"]))[0] == 0
        await lab.until(lambda: not lab.ready("drains"))
        assert (await lab.run("drains", ["touch", "/tmp/go"]))[0] == 0
        await lab.until(lambda: lab.gone("drains"))

    asyncio.run(scenario())


def test_a_token_is_renewed_before_it_ends(lab: Lab) -> None:
    async def scenario() -> None:
        lab.kubelet.settings = replace(lab.kubelet.settings, token_seconds=3600)
        await lab.kubelet.start()
        lab.pod("holder", volumeMounts=[{"name": "sa", "mountPath": "/token"}], spec={"volumes": [
            {"name": "sa", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]})
        await lab.until(lambda: lab.ready("holder"))
        worker = lab.kubelet.worker("default", "holder")
        assert worker
        before = (await lab.run("holder", ["cat", "/token/token"]))[1]
        await worker.refresh_volumes()
        assert (await lab.run("holder", ["cat", "/token/token"]))[1] == before
        worker.sandbox._renew_after = time.time() - 1
        await asyncio.sleep(1.1)  # tokens of one second are the same
        await worker.refresh_volumes()
        after = (await lab.run("holder", ["cat", "/token/token"]))[1]
        assert after != before
        assert lab.api.tokens.check(after)

    asyncio.run(scenario())


def test_node_registers_like_an_aks_node(lab: Lab) -> None:
    async def scenario() -> None:
        await lab.kubelet.start()
        node = lab.api.get("nodes", lab.net.name)
        assert node["metadata"]["labels"]["agentpool"] == "nodepool1"
        assert node["spec"]["providerID"].endswith("aks-nodepool1-12345678-vmss/virtualMachines/0")
        assert {"type": "InternalIP", "address": "10.224.0.4"} in node["status"]["addresses"]
        assert lab.api.get("leases.coordination.k8s.io", lab.net.name, "kube-node-lease")["spec"]["renewTime"]

    asyncio.run(scenario())


def test_a_deleted_node_comes_back_when_its_kubelet_restarts_and_not_before(lab: Lab, monkeypatch) -> None:
    monkeypatch.setattr(kubelet, "_HEARTBEAT", 0.02)

    def there() -> bool:
        return bool(lab.api.list("nodes"))

    async def scenario() -> None:
        await lab.kubelet.start()
        leases = "leases.coordination.k8s.io"
        lab.api.delete("nodes", lab.net.name)
        lab.api.delete(leases, lab.net.name, "kube-node-lease")      # as the garbage collector does
        await asyncio.sleep(0.3)
        assert not there()
        assert lab.api.list(leases, "kube-node-lease") == [], "a node's lease needs the node"
        lab.kubelet.register()
        assert there()
        node = lab.api.get("nodes", lab.net.name)
        owner = lab.api.get(leases, lab.net.name, "kube-node-lease")["metadata"]["ownerReferences"][0]
        assert owner["uid"] == node["metadata"]["uid"]
        lab.api.delete(leases, lab.net.name, "kube-node-lease")
        await lab.until(lambda: lab.api.list(leases, "kube-node-lease"))

    asyncio.run(scenario())


def test_an_ephemeral_container_runs_once_beside_the_others_and_sees_them(lab: Lab) -> None:
    lab.api.close()
    lab.api = Api(lab.home / "lab.db", "c1", version="v1.33.0")
    lab.nodes = Nodes(lab.api)
    lab.kubelet = lab.make_kubelet()

    def debug(*containers: Obj) -> None:
        lab.api.patch("pods", "steady", {"spec": {"ephemeralContainers": list(containers)}}, "default",
                      type="strategic", subresource="ephemeralcontainers")

    def ended(name: str) -> Obj:
        found = {c["name"]: c for c in lab.status("steady").get("ephemeralContainerStatuses") or ()}
        return found.get(name, {"state": {}})["state"].get("terminated") or {}

    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("steady", "exec sleep 4321")
        await lab.until(lambda: lab.ready("steady"))
        look = {"name": "look", "image": "busybox", "targetContainerName": "main",
                "command": ["sh", "-c", "ps; hostname; exit 3"]}
        debug(look)
        await lab.until(lambda: ended("look"))
        assert ended("look")["exitCode"] == 3
        printed = await lab.log("steady", "look")
        assert "sleep 4321" in printed
        assert printed.endswith("steady\n")
        debug({"name": "stays", "image": "busybox", "command": ["sleep", "1000"]})
        worker = lab.kubelet.worker("default", "steady")
        await lab.until(lambda: "stays" in worker.containers.running)
        assert lab.ready("steady"), "what debugs does not count"
        assert (await lab.run("steady", ["hostname"], container="stays"))[1] == "steady\n"
        with pytest.raises(ApiError, match=r'existing ephemeral containers "look" may not be changed'):
            debug({**look, "image": "nginx"})
        with pytest.raises(ApiError, match=r"spec.ephemeralContainers\[\d\].name: Duplicate value"):
            debug({"name": "main", "image": "busybox"})
        lab.api.delete("pods", "steady", "default")
        await lab.until(lambda: lab.gone("steady"))

    asyncio.run(scenario())
