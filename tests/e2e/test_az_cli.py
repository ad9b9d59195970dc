"""azure-cli itself, installed apart, against the lab: the article's commands as printed, and the everyday ones.

azure-cli is no dependency of labkit. The first test that needs it installs it into build/azure-cli, where it stays;
LABKIT_TEST_AZ names another `az` to use instead.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from labkit.local.paths import LabPaths
from labkit.local.server import lifecycle
from tests.conftest import leftovers
from tests.e2e.support import wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
VERSION = "2.91.0"
NAMES = "-g CalicoDemoRG -n MyCalicoCluster"
POOL = "-g CalicoDemoRG --cluster-name MyCalicoCluster -n extra"


@pytest.fixture(scope="module")
def az() -> Path:
    """azure-cli's command."""
    if given := os.environ.get("LABKIT_TEST_AZ"):
        return Path(given)
    folder = ROOT / "build" / "azure-cli"
    whole = folder / f"{VERSION}.whole"  # an installation that was broken off is begun anew
    if not whole.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        # Of its tens of thousands of modules the tests use few, and those are compiled as they are used.
        subprocess.run([folder / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "--no-compile",
                        f"azure-cli=={VERSION}"], check=True, timeout=600, capture_output=True, text=True)
        whole.touch()
    return folder / "bin" / "az"


@pytest.fixture(scope="module")
def shell(az, tmp_path_factory):
    """Runs lines in a shell that `labkit env` has told of a lab of its own, because the article's names may be taken
    in another; returns exit code and what was said."""
    paths = LabPaths(tmp_path_factory.mktemp("az-lab") / "home")
    lifecycle.up(paths, port=0)
    home = tmp_path_factory.mktemp("az-home")
    (home / ".ssh").mkdir(mode=0o700)
    public = rsa.generate_private_key(65537, 2048).public_key()
    (home / ".ssh" / "id_rsa.pub").write_bytes(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    environment = {**os.environ, "HOME": str(home), "LABKIT_HOME": str(paths.home),
                   "KUBECONFIG": str(home / "kubeconfig"), "AZURE_CORE_ONLY_SHOW_ERRORS": "yes",
                   "AZURE_CORE_COLLECT_TELEMETRY": "no",
                   "PATH": f"{az.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    told = subprocess.run(["bash", "-ec", 'eval "$(labkit env)"; env -0'], env=environment, capture_output=True,
                          text=True, timeout=120, check=True)
    environment = dict(pair.split("=", 1) for pair in told.stdout.split("\0") if "=" in pair)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # see `az`

    def run(lines: str, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-ec", lines], env=environment, capture_output=True, text=True, timeout=timeout,
                              check=False)

    yield run
    lifecycle.down(paths)
    assert leftovers(paths) == []


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args[-1]}\n{done.stdout}{done.stderr}"
    return done.stdout


CREATE = """
az group create --name CalicoDemoRG --location canadaeast
az aks create \
--resource-group CalicoDemoRG \
--name MyCalicoCluster \
--node-count 2 \
--kubernetes-version 1.20.2 \
--enable-managed-identity \
--load-balancer-sku standard \
--node-vm-size Standard_D2s_v3 \
--network-plugin azure \
--network-policy calico
az aks get-credentials --resource-group CalicoDemoRG --name MyCalicoCluster --admin
"""

# The host and the port are taken from what cluster-info prints, as the article's reader copies them.
SWITCH = """
kubectl patch installation default --type=merge -p '{"spec":{"calicoNetwork": {"nodeAddressAutodetectionV4": \
{"canReach": "8.8.8.8"}}}}'
kubectl cluster-info | grep -i kubernetes | sed 's/\\x1b\\[[0-9;]*m//g' >info
grep -oP 'https://\\K[^:]+' info >host
grep -oP ':\\K[0-9]+$' info >port
cat >yourfile.yml <<EOF
kind: ConfigMap
apiVersion: v1
metadata:
  name: kubernetes-services-endpoint
  namespace: tigera-operator
data:
  KUBERNETES_SERVICE_HOST: "$(cat host)"
  KUBERNETES_SERVICE_PORT: "$(cat port)"
EOF
kubectl apply -f yourfile.yml
kubectl delete pod -n tigera-operator -l k8s-app=tigera-operator
kubectl patch ds -n kube-system kube-proxy -p '{"spec":{"template":{"spec":{"nodeSelector":{"non-calico": "true"}}}}}'
kubectl patch felixconfiguration default --type=merge --patch='{"spec": {"bpfEnabled": true}}'
cat info
"""


@pytest.fixture(scope="module")
def cluster(shell):
    """The article's cluster, made by the article's commands."""
    said(shell(CREATE))


def test_the_articles_commands_as_printed(shell, cluster, tmp_path):
    info = said(shell(f"cd {tmp_path}\n{SWITCH}")).splitlines()[-1]
    assert ".hcp.canadaeast.azmk8s.io:443" in info
    assert " is running at https://mycalicocl-calicodemorg-" in info

    def switched():
        pods = said(shell("kubectl get pods -n calico-system -l k8s-app=calico-node -o name")).split()
        assert len(pods) == 2
        for pod in pods:
            assert "10.0.0.1" in said(shell(f"kubectl exec -n calico-system {pod} -- calico-node -bpf nat dump"))
        status = said(shell("kubectl get tigerastatus calico -o json"))
        conditions = {c["type"]: c["status"] for c in json.loads(status)["status"]["conditions"]}
        assert (conditions["Available"], conditions["Degraded"]) == ("True", "False")
        return True

    wait_for(switched, "eBPF carries the services, and the operator is content", interval=1)
    assert "No resources found" in shell("kubectl get pods -n kube-system -l component=kube-proxy").stderr


EVERYDAY = (
    ("az account show --query name -o tsv", "labkit local lab"),
    ("az group list --query [].name -o tsv", "CalicoDemoRG"),
    ("az aks list -o table", "MyCalicoCluster  canadaeast  CalicoDemoRG     1.20.2"),
    (f"az aks show {NAMES} --query '[provisioningState,powerState.code]' -o tsv", "Succeeded\nRunning"),
    ("az aks get-versions -l canadaeast -o table", "1.36.2"),
    (f"az aks update {NAMES} --tags owner=alice --query tags.owner -o tsv", "alice"),
    (f"az aks get-credentials {NAMES} --overwrite-existing && kubectl config current-context", "MyCalicoCluster\n"),
    (f"az aks nodepool add {POOL} --node-count 1 --labels tier=web --node-taints lab=ebpf:NoSchedule -o none &&"
     " kubectl get nodes -l tier=web,agentpool=extra -o jsonpath='{.items[*].spec.taints[*].key}'", "lab"),
    (f"az aks nodepool update {POOL} --labels tier=db --node-taints '' -o none &&"
     " kubectl get nodes -l agentpool=extra -o jsonpath='{.items[*].metadata.labels.tier}{.items[*].spec.taints}'",
     "db"),
    (f"az aks nodepool scale {POOL} --node-count 2 -o none && kubectl get nodes -l tier=db -o name | wc -l", "2"),
    ("az aks nodepool list -g CalicoDemoRG --cluster-name MyCalicoCluster --query [].name -o tsv", "nodepool1\nextra"),
    (f"az aks nodepool delete {POOL} -o none && kubectl get nodes -l agentpool=extra -o name | wc -l", "0"),
    (f"az aks scale {NAMES} --node-count 1 -o none && kubectl get nodes -o name | wc -l", "1"),
    (f"az aks stop {NAMES} && az aks show {NAMES} --query powerState.code -o tsv", "Stopped"),
    (f"az aks start {NAMES} && kubectl get nodes -o name | wc -l", "1"),
)


def test_everyday_commands(shell, cluster):
    for line, words in EVERYDAY:
        assert words in said(shell(line)), line


@pytest.mark.parametrize(("line", "code", "words"), [
    ("az aks create -g CalicoDemoRG -n other --kubernetes-version 1.21.1", 1, "(AgentPoolK8sVersionNotSupported)"),
    ("az aks create -g CalicoDemoRG -n other --node-vm-size Standard_Moon", 1, "is not allowed in your subscription"),
    ("az aks show -g CalicoDemoRG -n nope", 3, "(ResourceNotFound)"),
    ("az group delete -n nope -y", 3, "(ResourceGroupNotFound)"),
    ("az aks nodepool delete -g CalicoDemoRG --cluster-name MyCalicoCluster -n nodepool1", 1, "(OperationNotAllowed)"),
])
def test_refusals_have_azures_codes_and_azs_exit_codes(shell, cluster, line, code, words):
    done = shell(line)
    assert done.returncode == code
    assert words in done.stderr


def test_the_articles_clean_up_and_a_deletion_that_is_not_waited_for(shell, cluster):
    said(shell("az aks delete --name MyCalicoCluster --resource-group CalicoDemoRG -y --no-wait"))
    said(shell(f"az aks wait {NAMES} --deleted --interval 2 --timeout 60"))
    said(shell("az aks delete --name MyCalicoCluster --resource-group CalicoDemoRG -y"))
    said(shell("az group delete --resource-group CalicoDemoRG -y"))
    assert said(shell("az group exists -n CalicoDemoRG")).strip() == "false"
