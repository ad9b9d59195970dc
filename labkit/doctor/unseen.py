"""Faults that cannot be seen from the two APIs: what is known of them, for `labkit doctor --explain`."""

from __future__ import annotations

from labkit.doctor.rows import Row

GROUP = "What the doctor cannot see"
UNSEEN = (
    Row("lb-hairpin", GROUP, "Pods and their own load balancer",
        "pods do not reach the public address of their own cluster's load balancer.",
        "Azure's load balancer does not send a connection back to where it came from.",
        "test from outside, or use the cluster IP.", "projectcalico/calico e2e/config/platform/aks.yaml"),
    Row("np-remote", GROUP, "Node ports and back ends on other nodes",
        "a node port works only on the node that has the pod.",
        "UDP 4789 between nodes is blocked: eBPF mode forwards in VXLAN, also without an overlay.",
        "allow it in the network security group of a subnet of your own; `tcpdump -ni eth0 udp port 4789` on both "
        "nodes shows where it ends.", "projectcalico/calico#6392"),
    Row("gso", GROUP, "Offloads and VXLAN", "rare losses of node-port traffic with large transfers.",
        "with some kernels the NIC's offloads merge VXLAN packets wrongly.",
        "use a newer Calico, or set bpfDisableGROForIfaces.", "projectcalico/calico#11160, #11199"),
    Row("old-conns", GROUP, "Connections from before the switch",
        "connections that were open when eBPF was turned on behave as before.",
        "they stay on the path that they began on.",
        "restart the clients: `kubectl rollout restart -n kube-system deployment/coredns`, and your applications.",
        "docs.tigera.io/calico/latest/operations/ebpf/enabling-ebpf"),
)
