"""Pure planners and kernel access: what kube-proxy and calico-node are made of."""
