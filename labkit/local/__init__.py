"""The local lab: Azure Resource Manager and Kubernetes on loopback, with a real kernel data plane."""
