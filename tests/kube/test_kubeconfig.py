import pytest
import yaml

from labkit.errors import KubeconfigError
from labkit.kube import kubeconfig


def config(name, token="t"):
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}"}}],
        "users": [{"name": f"u-{name}", "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": f"u-{name}"}}],
    }


def test_merge_keeps_what_is_there_and_takes_the_new_context():
    merged = kubeconfig.merge(config("mine"), config("lab"))
    assert [c["name"] for c in merged["contexts"]] == ["mine", "lab"]
    assert merged["current-context"] == "lab"


def test_merge_replaces_an_entry_of_the_same_name():
    merged = kubeconfig.merge(config("lab", "old"), config("lab", "new"))
    assert [u["user"]["token"] for u in merged["users"]] == ["new"]


def test_forgetting_a_context_leaves_the_others_alone():
    both = kubeconfig.merge(config("mine"), config("lab"))
    rest = kubeconfig.without(both, "lab")
    assert [c["name"] for c in rest["clusters"]] == ["mine"]
    assert rest["current-context"] == ""
    assert kubeconfig.without(rest, "lab") == rest


def test_context_is_named_as_az_names_it():
    named = kubeconfig.admin(config("MyCalicoCluster"), "MyCalicoCluster-admin")
    assert named["contexts"][0]["name"] == named["current-context"] == "MyCalicoCluster-admin"


def test_file_is_private_and_backed_up(tmp_path):
    path = tmp_path / ".kube" / "config"
    kubeconfig.write(path, config("mine"))
    assert path.stat().st_mode & 0o777 == 0o600
    copy = kubeconfig.back_up(path)
    assert yaml.safe_load(copy.read_text()) == config("mine")
    assert copy.name.endswith(".backup")
    assert copy.stat().st_mode & 0o777 == 0o600
    assert not list(path.parent.glob(".kubeconfig-*"))


def test_nothing_to_back_up(tmp_path):
    assert kubeconfig.back_up(tmp_path / "none") is None
    assert kubeconfig.load(tmp_path / "none") == {}


@pytest.mark.parametrize("text", ["a: b: c", "- a list", "clusters: 3"])
def test_a_file_that_is_no_kubeconfig_is_left_untouched(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(KubeconfigError, match="left untouched"):
        kubeconfig.load(path)
    assert path.read_text() == text
