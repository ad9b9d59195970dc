import pytest

from labkit.local.dataplane.felix import FelixConfig, logs_in_bpf
from labkit.local.dataplane.policy import host_interface
from labkit.local.fabric import host_interface as fabric_host_interface


def test_defaults_are_felix_own():
    config = FelixConfig.read({}, {})
    assert (config.bpf_enabled, config.bpf_external_service_mode) == (False, "Tunnel")
    assert config.bpf_connect_time_load_balancing == "TCP"
    assert (config.vxlan_port, config.vxlan_vni, config.health_port) == (4789, 4096, 9099)


def test_the_environment_wins_over_the_datastore():
    config = FelixConfig.read({"bpfEnabled": False, "vxlanVNI": 7}, {"FELIX_BPFENABLED": "true", "HOME": "/"})
    assert (config.bpf_enabled, config.vxlan_vni) == (True, 7)


@pytest.mark.parametrize(("old", "meaning"), [(True, "Enabled"), (False, "Disabled")])
def test_the_article_s_field_for_connect_time_load_balancing_still_counts(old, meaning):
    assert FelixConfig.read({"bpfConnectTimeLoadBalancingEnabled": old}, {}).bpf_connect_time_load_balancing == meaning


def test_choices_are_read_in_any_case():
    config = FelixConfig.read({"bpfExternalServiceMode": "dsr"}, {"FELIX_DEFAULTENDPOINTTOHOSTACTION": "ACCEPT"})
    assert (config.bpf_external_service_mode, config.default_endpoint_to_host_action) == ("DSR", "Accept")


@pytest.mark.parametrize(("spec", "message"), [
    ({"bpfEnabled": "perhaps"}, "bpfEnabled: invalid boolean 'perhaps'"),
    ({"vxlanPort": "x"}, "vxlanPort: invalid integer 'x'"),
    ({"bpfExternalServiceMode": "Magic"}, "bpfExternalServiceMode: unknown option 'Magic', one of Tunnel, DSR"),
])
def test_a_value_that_felix_would_not_take_is_named(spec, message):
    with pytest.raises(ValueError, match=message):
        FelixConfig.read(spec, {})


def test_the_data_plane_and_the_fabric_name_interfaces_alike():
    assert host_interface("shop", "web-1") == fabric_host_interface("shop", "web-1")


@pytest.mark.parametrize(("version", "logs"), [("v3.17.2", False), ("v3.28.2", False), ("v3.29.1", True),
                                               ("v3.32.1", True), ("", False)])
def test_calico_logs_in_bpf_mode_since_3_29_1(version, logs):
    assert logs_in_bpf({"CALICO_VERSION": version}) is logs
