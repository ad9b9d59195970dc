from __future__ import annotations

import pytest

from tests.e2e import support


@pytest.fixture(scope="session")
def cluster(daemon, lab_paths, tmp_path_factory):
    """A cluster as the article makes it, shared by the session's tests; each takes a fresh namespace."""
    made = support.create_cluster(daemon, lab_paths, tmp_path_factory.mktemp("kubeconfig"))
    yield made
    support.delete_cluster(made)


@pytest.fixture
def namespace(cluster):
    with cluster.namespace() as name:
        yield name
