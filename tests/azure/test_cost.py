"""Estimates are sums of rates that say where they are from; the meter counts from when Azure says."""

from datetime import UTC, datetime, timedelta

import pytest

from labkit.azure import ClusterSettings, cost

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


def cluster(**more):
    pools = [{"name": "nodepool1", "count": 2, "vmSize": "Standard_D2s_v3"}]
    return {"name": "c", "properties": {"agentPoolProfiles": pools, "powerState": {"code": "Running"}}, **more}


def test_the_default_lab_costs_what_the_facts_say():
    found = cost.estimate(ClusterSettings())
    assert found.per_hour == pytest.approx(0.281, abs=0.001)
    assert found.for_hours(2) == "about $0.56 (0.45 to 0.67) for 2 h"
    assert all(item.rate.source and item.rate.read for item in found.items)
    assert "Free tier" in str(found)


def test_the_sizes_vcpus_and_the_nodes_count():
    four = cost.estimate(ClusterSettings(node_vm_size="Standard_D4s_v5", node_count=3)).items[0]
    assert four.per_hour == pytest.approx(3 * 4 * 0.048)
    assert "two vCPUs are assumed" in str(cost.estimate(ClusterSettings(node_vm_size="Standard_E2s_v5")))


def test_each_pool_counts_by_its_own_size_and_so_do_nodes_addresses():
    more = cluster()
    more["properties"]["agentPoolProfiles"].append(
        {"name": "big", "count": 1, "vmSize": "Standard_D8s_v5", "enableNodePublicIP": True})
    found = cost.meter(more, NOW).cost
    assert found.per_hour == pytest.approx(cost.estimate(ClusterSettings()).per_hour + 8 * 0.048 + 0.027 + 0.005)
    assert "3 public addresses" in str(found)


@pytest.mark.parametrize("since", [
    {"systemData": {"createdAt": "2026-11-27T09:00:00.5Z"}}, {"tags": {"labkit-run": "20261127-090000"}},
    {"tags": {"labkit-run": "20261127-090000"}, "systemData": {"createdAt": "yesterday"}},
])
def test_the_meter_runs_since_the_cluster_was_made(since):
    meter = cost.meter(cluster(**since), NOW)
    assert meter.hours == pytest.approx(3, abs=0.01)
    assert meter.dollars == pytest.approx(3 * 0.281, abs=0.01)


def test_a_control_plane_that_costs_money_is_said():
    paid = cost.meter(cluster(sku={"name": "Base", "tier": "Standard"}), NOW).cost
    assert "tier Standard: that costs money" in str(paid)
    assert "Free tier" not in str(paid)


def test_what_is_not_known_is_said():
    said = str(cost.meter(cluster(), NOW))
    assert "not known" in said
    assert "nothing says when it expires" in said


def test_a_stopped_cluster_still_costs_its_disks_and_addresses():
    stopped = cluster(tags={"labkit-run": "20261127-090000", "expires-at": "2026-11-27T17:00:00+00:00"})
    stopped["properties"]["powerState"]["code"] = "Stopped"
    meter = cost.meter(stopped, NOW)
    assert meter.cost.per_hour_stopped == pytest.approx(meter.cost.per_hour - 4 * 0.048)
    assert "$0.09 an hour" in str(meter)
    assert "at most" in str(meter)
    assert "expires 2026-11-27T17:00" in str(meter)


def test_a_clock_that_is_behind_gives_nothing_negative():
    made = cluster(systemData={"createdAt": (NOW + timedelta(minutes=1)).isoformat()})
    assert cost.meter(made, NOW).dollars == 0
