from labkit.local.arm.clusters import PoolSpec
from labkit.local.server.nodepool import node_name, place


def pool(count: int, name: str = "nodepool1") -> PoolSpec:
    return PoolSpec(name, count, "Standard_D2s_v3")


def test_names_look_like_a_scale_sets():
    first, eleventh = node_name("rg/c", "nodepool1", 0), node_name("rg/c", "nodepool1", 10)
    assert first.startswith("aks-nodepool1-")
    assert first.endswith("-vmss000000")
    assert eleventh.endswith("-vmss00000a")
    assert node_name("rg/other", "nodepool1", 0) != first


def test_scaling_down_takes_the_highest_ordinals_and_leaves_the_others_in_place():
    three = place("rg/c", [pool(3)], [])
    assert [n.slot for n in three] == [0, 1, 2]
    assert place("rg/c", [pool(2)], three) == three[:2]


def test_a_freed_slot_is_used_again():
    nodes = place("rg/c", [pool(2), pool(1, "user")], [])
    shrunk = place("rg/c", [pool(1), pool(1, "user")], nodes)
    assert [n.slot for n in shrunk] == [0, 2]
    grown = place("rg/c", [pool(1), pool(2, "user")], shrunk)
    assert sorted(n.slot for n in grown) == [0, 1, 2]
    assert set(shrunk) < set(grown)
