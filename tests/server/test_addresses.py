import sqlite3

import pytest

from labkit.local.server.addresses import PublicAddresses


@pytest.fixture
def database():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def test_an_owner_keeps_its_address_and_a_released_one_is_used_again(database):
    addresses = PublicAddresses(database)
    api, outbound = addresses.allocate("c1/api"), addresses.allocate("c1/outbound")
    assert api != outbound
    assert PublicAddresses(database).allocate("c1/api") == api
    addresses.release(api)
    assert addresses.allocate("c2/api") == api
    addresses.release_cluster("c1")
    assert addresses.allocate("c2/outbound") == outbound


def test_running_out_says_what_to_do(database):
    addresses = PublicAddresses(database)
    for number in range(245):
        addresses.allocate(f"c1/service/{number}")
    with pytest.raises(RuntimeError, match="delete a service of type LoadBalancer"):
        addresses.allocate("c1/service/one-too-many")


def test_a_wished_address_is_the_labs_and_nobody_elses(database):
    addresses = PublicAddresses(database)
    api = addresses.allocate("c1/api")
    assert addresses.claim("c1/service/a", "192.0.2.99") == "192.0.2.99"
    assert addresses.allocate("c1/service/a") == "192.0.2.99"
    assert addresses.claim("c1/service/a", "192.0.2.98") == "192.0.2.98"
    assert addresses.claim("c1/service/b", "192.0.2.99") == "192.0.2.99"
    with pytest.raises(ValueError, match=f"{api} is in use"):
        addresses.claim("c1/service/a", api)
    with pytest.raises(ValueError, match="not a public address of this lab"):
        addresses.claim("c1/service/a", "8.8.8.8")
