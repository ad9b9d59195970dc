import pytest

from labkit.local.dataplane.selectors import SelectorError, from_kubernetes, parse

LABELS = {"app": "web", "tier": "front", "projectcalico.org/namespace": "shop"}


@pytest.mark.parametrize(("selector", "matches"), [
    ("", True), ("all()", True), ("app == 'web'", True), ('app=="api"', False), ("app != 'api'", True),
    ("missing != 'x'", True), ("missing == ''", False), ("app in {'api', 'web'}", True),
    ("app not in {'api','web'}", False), ("missing not in {'x'}", True), ("has(tier)", True),
    ("!has(tier)", False), ("!has(x) && app == 'web'", True), ("app == 'x' || tier == 'front'", True),
    ("app == 'x' || tier == 'front' && has(nope)", False), ("(app == 'web' || has(nope)) && has(tier)", True),
    ("!(app == 'web')", False), ("tier contains 'ron'", True), ("tier starts with 'fr'", True),
    ("tier ends with 'fr'", False), ("projectcalico.org/namespace == 'shop'", True), ("in == 'x'", False),
    ("app notin {'api'}", True), ("tier startswith 'fr'", True), ("tier\tendswith\t'nt'", True), ("in in {'x'}", False),
])
def test_calico_selectors(selector, matches):
    assert parse(selector)(LABELS) is matches


@pytest.mark.parametrize("selector", ["app ==", "app = 'x'", "(app == 'x'", "app in {'a' 'b'}", "has()",
                                      "app == 'a' b", "'app' == 'x'", "app", "app == 'web'\n", "ä == 'x'"])
def test_malformed_selectors_are_refused_by_name(selector):
    with pytest.raises(SelectorError, match="invalid selector"):
        parse(selector)


def test_kubernetes_selectors():
    assert from_kubernetes({})(LABELS)
    assert not from_kubernetes(None)(LABELS)
    assert from_kubernetes({"matchExpressions": [{"key": "app", "operator": "Exists"},
                                                 {"key": "x", "operator": "DoesNotExist"}]})(LABELS)
    assert not from_kubernetes({"matchLabels": {"app": "web", "tier": "back"}})(LABELS)
