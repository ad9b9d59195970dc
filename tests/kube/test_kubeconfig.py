import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from labkit.errors import KubeconfigError
from labkit.kube import kubeconfig, kubelogin


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
    named = kubeconfig.named(config("MyCalicoCluster"), "MyCalicoCluster-admin")
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


def test_a_file_that_is_no_text_is_said_and_left(tmp_path):
    path = tmp_path / "config"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KubeconfigError, match="cannot be read"):
        kubeconfig.update(path, lambda found: config("lab"))
    assert path.read_bytes() == b"\xff\xfe\x00"
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_stays_one(tmp_path, there):
    real, link = tmp_path / "real" / "config", tmp_path / "config"
    link.symlink_to(real)
    if there:
        kubeconfig.write(real, config("mine"))
    kubeconfig.update(link, lambda found: kubeconfig.merge(found, config("lab")))
    assert link.is_symlink()
    assert [c["name"] for c in yaml.safe_load(real.read_text())["contexts"]] == (["mine"] if there else []) + ["lab"]
    assert real.stat().st_mode & 0o777 == 0o600


def test_two_copies_of_one_second_are_two(tmp_path, monkeypatch):
    monkeypatch.setattr(kubeconfig.time, "time", lambda: 1.0)
    path = tmp_path / "config"
    for name in ("first", "second"):
        kubeconfig.write(path, config(name))
        kubeconfig.back_up(path)
    copies = sorted(tmp_path.glob("*.backup"))
    assert [yaml.safe_load(c.read_text())["current-context"] for c in copies] == ["first", "second"]


def test_a_lock_of_kubectls_is_respected_and_one_left_behind_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(kubeconfig, "_LOCK_SECONDS", 0.1)
    path = tmp_path / "config"
    (tmp_path / "config.lock").touch()
    with pytest.raises(KubeconfigError, match="another program") as error:
        kubeconfig.update(path, lambda found: config("lab"))
    assert "rm " in error.value.fix
    assert not path.exists()
    assert (tmp_path / "config.lock").exists()


def test_a_folder_in_the_way_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(KubeconfigError, match="cannot be written"):
        kubeconfig.update(tmp_path / "file" / "config", lambda found: config("lab"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(("mode", "words"), [(0o500, "cannot be backed up"), (0o000, "cannot be read")])
def test_somebody_without_the_right_is_told(mode, words, request):
    """As another user: root may write everywhere. pytest's own folders let nobody else in."""
    place = tempfile.TemporaryDirectory()
    request.addfinalizer(place.cleanup)
    folder = Path(place.name)
    path = folder / "config"
    path.write_text(yaml.safe_dump(config("mine")))
    path.chmod(0o600 & mode)
    os.chown(path, 65534, 65534)
    folder.chmod(0o555)
    program = ("from pathlib import Path; from labkit.kube import kubeconfig as k; import sys; p = Path(sys.argv[1])\n"
               "try: k.load(p); k.back_up(p)\nexcept Exception as e: print(type(e).__name__, e)")
    done = subprocess.run([sys.executable, "-c", program, str(path)], user=65534, group=65534, text=True,
                          capture_output=True, check=False, cwd=os.getcwd())
    assert f"KubeconfigError {path} {words}" in done.stdout, done.stderr
    assert "set KUBECONFIG to another file" in done.stdout


def test_several_files_are_read_as_kubectl_reads_them(tmp_path, monkeypatch):
    first, second = tmp_path / "a", tmp_path / "b"
    kubeconfig.write(first, {**config("one"), "current-context": ""})
    kubeconfig.write(second, kubeconfig.merge(config("two"), config("one", "other")))
    monkeypatch.setenv("KUBECONFIG", f":{first}:{tmp_path / 'absent'}:{second}")
    found = kubeconfig.load_all()
    assert {c["name"] for c in found["contexts"]} == {"one", "two"}
    assert next(u for u in found["users"] if u["name"] == "u-one")["user"] == {"token": "t"}
    assert found["current-context"] == "one"
    assert kubeconfig.default_path() == first


def test_only_kubelogin_is_told_another_way_in():
    calls = {"command": "/bin/kubelogin", "args": ["get-token", "--login", "devicecode"]}
    gke = {"command": "gke-gcloud-auth-plugin", "args": ["--login", "x"]}
    users = [{"name": "a", "user": {"exec": calls}}, {"name": "b", "user": {"exec": gke}}, {"name": "c", "user": {}}]
    changed = kubelogin.with_login({"users": users}, "azurecli")["users"]
    assert changed[0]["user"]["exec"]["args"] == ["get-token", "--login", "azurecli"]
    assert changed[1:] == users[1:]
    assert kubelogin.programs({"users": users}) == ("/bin/kubelogin", "gke-gcloud-auth-plugin")
