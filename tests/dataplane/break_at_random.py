"""Run in a network namespace of its own: rules are broken at random moments while kube-proxy writes.

    unshare -n python -m tests.dataplane.break_at_random ROUNDS SEED [long]

With "long" the table counts as one that is too long to be remembered, where until the next look only the number and the
length of rules tell of a change: then one hand breaks things, for a rule that went and one that came are as many as
before. After a look a rule is replaced by one of the same length.

A round changes one service, so that a partial write touches a few chains, and deletes, changes or reorders rules at
the same time. Two looks later the namespace must hold what a full write puts there. Prints how many breaks were made.
"""

from __future__ import annotations

import random
import re
import shlex
import subprocess
import sys
import threading
import time

from labkit.local.dataplane import iptables_guard, iptables_stamp
from labkit.local.dataplane.iptables import Iptables, IptablesError
from labkit.local.dataplane.iptables_guard import ours
from labkit.local.dataplane.kubeproxy import ProxyConfig
from labkit.local.programs.kube_proxy import Proxier

SERVICES = 5


def service(number: int) -> dict[str, object]:
    return {"metadata": {"name": f"s{number}", "namespace": "d", "uid": f"u{number}"},
            "spec": {"clusterIP": f"10.0.0.{number + 1}", "type": "ClusterIP",
                     "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}


def endpoints(number: int, pods: range) -> dict[str, object]:
    return {"metadata": {"name": f"s{number}-x", "namespace": "d",
                         "labels": {"kubernetes.io/service-name": f"s{number}"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [f"10.224.0.{pod}"], "conditions": {"ready": True}} for pod in pods]}


def call(*words: str) -> bool:
    argv = ["iptables-legacy", "-w", "-t", "nat", *words]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def break_one(dice: random.Random, long: bool) -> bool:
    saved = subprocess.run(["iptables-legacy-save", "-t", "nat"], capture_output=True, text=True, check=True).stdout
    chains = [line[1:].split()[0] for line in saved.splitlines() if line.startswith(":KUBE-")]
    chain = dice.choice(chains)
    ways = [
        lambda: call("-D", chain, "1"), lambda: call("-F", chain), lambda: call("-I", chain, "-j", "RETURN"),
        lambda: call("-D", "PREROUTING", "1"), lambda: call("-R", chain, "1", "-p", "tcp", "-j", "ACCEPT"),
    ]
    return dice.choice(ways[:-1] if long else ways)()


def main(rounds: int, seed: int, *, long: bool) -> int:
    dice = random.Random(seed)
    if long:
        iptables_guard.LONG, iptables_stamp.DEEP, iptables_guard.SHARE = 1, 0, 1e9    # each look reads all
    iptables, broken = Iptables("legacy"), 0
    proxier = Proxier(ProxyConfig("n1", "10.224.0.4"), iptables, partial=True)
    for number in range(SERVICES):
        proxier.table.on_service("ADDED", service(number))
        proxier.table.on_slice("ADDED", endpoints(number, range(10, 12)))
    proxier.sync()
    for turn in range(rounds):
        number, first = dice.randrange(SERVICES), dice.randrange(20, 200)
        proxier.table.on_slice("MODIFIED", endpoints(number, range(first, first + dice.randint(1, 3))))
        hands_at_work = 1 if long else 2
        moments, done = [dice.random() * 0.04 for _ in range(hands_at_work)], [False] * hands_at_work

        def disturb(index: int, moments: list[float] = moments, done: list[bool] = done) -> None:
            time.sleep(moments[index])
            done[index] = break_one(dice, long)
        hands = [threading.Thread(target=disturb, args=(index,)) for index in range(hands_at_work)]
        for hand in hands:
            hand.start()
        attempt(proxier)
        for hand in hands:
            hand.join()
        broken += sum(done)
        for _ in range(2):
            proxier.look_after()
            if proxier.dirty:
                attempt(proxier)
        found = ours(iptables.save("nat"), "KUBE-")
        proxier._known = None
        proxier.sync()
        right = ours(iptables.save("nat"), "KUBE-")
        assert found == right, (turn, {chain: (right.get(chain), found.get(chain)) for chain in {*right, *found}
                                       if right.get(chain) != found.get(chain)})
        proxier.look_after()
    if long:
        chain, rule = next((chain, rules[1]) for chain, rules in right.items() if chain.startswith("KUBE-SEP"))
        assert call("-R", chain, "2", *shlex.split(re.sub(r"to-destination 10\.224", "to-destination 10.225", rule)))
        proxier.look_after()
        assert proxier.dirty
        proxier.sync()
        assert ours(iptables.save("nat"), "KUBE-") == right
    return broken


def attempt(proxier: Proxier) -> None:
    """As the program does: what failed is tried again, and all of it is written then."""
    for _ in range(5):
        try:
            proxier.sync()
            return
        except IptablesError:
            time.sleep(0.05)


if __name__ == "__main__":
    print(main(int(sys.argv[1]), int(sys.argv[2]), long="long" in sys.argv[3:]))
