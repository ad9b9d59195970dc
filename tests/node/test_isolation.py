"""What root in a container cannot do to the machine, nor read of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from labkit.local.node import volumes
from labkit.local.node.environment import ConfigError

if TYPE_CHECKING:
    from .conftest import Lab


@pytest.mark.kernel
def test_root_in_a_container_sees_no_secret_and_opens_no_device(lab: Lab) -> None:
    script = """
        for f in shadow gshadow ssh ssl/private; do ls -d /etc/$f /.labkit/etc/$f /host/etc/$f; done 2>/dev/null
        mknod /tmp/zero c 1 5 && mknod /scratch/zero c 1 5 && echo made
        head -c 1 /tmp/zero >/dev/null 2>&1 && echo opened
        head -c 1 /scratch/zero >/dev/null 2>&1 && echo opened
        for p in bus fs irq sys sysrq-trigger; do
            test ! -e /proc/$p || awk -v p=/proc/$p '$2 == p { print $4 }' /proc/mounts | grep -q '^ro' || echo "$p"
        done
        awk '$2 == "/host/proc/sys" { print $4 }' /proc/mounts | grep -q '^ro' || echo "the node's proc is open"
        ls /sys/firmware; head -c 1 /proc/kcore 2>/dev/null
        chroot /host sh -c 'ls /root /home; cat /etc/hostname; touch /usr/x 2>/dev/null'; echo end; sleep 100"""

    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("plain", script, volumeMounts=[{"name": "scratch", "mountPath": "/scratch"},
                                               {"name": "node", "mountPath": "/host"}],      # as kubectl debug does
                spec={"volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "node", "hostPath": {"path": "/"}}]})
        await lab.until(lambda: lab.ready("plain"))
        assert await lab.says("plain", "end\n") == f"made\n/home:\n\n/root:\n{lab.net.name}\nend\n"

    asyncio.run(scenario())


def test_a_link_that_a_pod_left_in_a_volume_does_not_lead_out_of_it(tmp_path: Path) -> None:
    scratch, outside = tmp_path / "scratch", tmp_path / "outside"
    scratch.mkdir()
    outside.mkdir()
    (scratch / "link").symlink_to(outside)
    (scratch / "real").mkdir()

    def mounted(below: str) -> str:
        container = {"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": below}]}
        return volumes.mounts(container, {"v": str(scratch)}, {})[0].source

    assert mounted("real") == str(scratch / "real")
    assert mounted("../../real") == str(scratch / "real")
    for below in ("link", "link/deeper"):
        with pytest.raises(ConfigError, match="leads out of its volume"):
            mounted(below)
    assert list(outside.iterdir()) == []


def test_neither_does_one_on_the_node_s_disk_nor_in_a_projection(tmp_path: Path) -> None:
    disk, folder, outside = tmp_path / "disk", tmp_path / "volumes", tmp_path / "outside"
    for path in (disk, folder / "page", outside):
        path.mkdir(parents=True)
    (disk / "var").symlink_to(outside)
    (outside / "index.html").write_text("the machine's own")
    (folder / "page" / "index.html").symlink_to(outside / "index.html")
    around = volumes.Surroundings(folder, disk, lambda kind, name: {"data": {"index.html": "ours"}}, {}, "")
    place = None  # asked for by the downward API alone

    def make(volume: dict[str, object]) -> dict[str, str]:
        return volumes.materialise({"spec": {"volumes": [{"name": "page", **volume}]}}, place, around)

    with pytest.raises(ConfigError, match="leads out of its volume"):
        make({"hostPath": {"path": "/var/lib"}})
    assert make({"hostPath": {"path": "/etc/ssl/private"}}) == {"page": str(disk / "etc/ssl/private")}
    made = make({"configMap": {"name": "page"}})
    assert (Path(made["page"]) / "index.html").read_text() == "ours"
    assert (outside / "index.html").read_text() == "the machine's own"


def test_who_is_not_root_in_the_container_reads_its_files(tmp_path: Path) -> None:
    around = volumes.Surroundings(tmp_path, tmp_path, lambda kind, name: {"data": {"a": "1"}}, {}, "")
    before = os.umask(0o077)        # the daemon's
    try:
        volumes.materialise({"spec": {"volumes": [{"name": "v", "configMap": {"name": "c", "items": [
            {"key": "a", "path": "deep/er/a"}]}}]}}, None, around)
    finally:
        os.umask(before)
    assert [(tmp_path / path).stat().st_mode & 0o777 for path in ("v", "v/deep", "v/deep/er", "v/deep/er/a")] == [
        0o755, 0o755, 0o755, 0o644]


def test_a_running_pod_s_files_follow_what_they_are_made_from(tmp_path: Path) -> None:
    token, page = {"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "page", "optional": True}}
    made = [{"name": "plain", **page}, {"name": "mixed", "projected": {"sources": [token, page]}},
            {"name": "account", "projected": {"sources": [token, {"configMap": {"name": "kube-root-ca.crt"}}]}}]
    maps = {"page": {"data": {"a": "1", "b": "1"}}}

    def around(tokens: dict[str, str]) -> volumes.Surroundings:
        return volumes.Surroundings(tmp_path, tmp_path, lambda kind, name: maps.get(name), tokens, "")

    def files(name: str) -> dict[str, str]:
        return {path.name: path.read_text() for path in (tmp_path / name).iterdir()}

    pod = {"spec": {"volumes": made}}
    volumes.materialise(pod, None, around({"": "t"}))
    maps["page"] = {"data": {"b": "2"}}
    volumes.refresh(pod, None, around({}))
    assert files("plain") == {"b": "2"}
    assert files("mixed") == {"b": "2", "token": "t"}
    del maps["page"]
    volumes.refresh(pod, None, around({}))
    assert (files("plain"), files("mixed"), files("account")["token"]) == ({}, {"token": "t"}, "t")
    assert [volumes.changes(volume) for volume in made] == [True, True, False], "each look costs"
