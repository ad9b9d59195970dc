"""Disruption budgets in the API: what one may say, and evictions that ask them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from labkit.local.client import ApiError, Obj, timestamp

from . import errors
from .errors import FieldError
from .kinds import Kind
from .machinery import DeleteOptions
from .policies import selector_errors
from .selectors import selects
from .strategies import Strategy

if TYPE_CHECKING:
    from .api import Api

BUDGETS = "poddisruptionbudgets.policy"
_LIMITS = ("minAvailable", "maxUnavailable")
_COUNTS = ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods")
_PERCENT = ("a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex"
            " used for validation is '[0-9]+%')")


class DisruptionBudgetStrategy(Strategy):
    """A budget's status always has its numbers, as Kubernetes prints them."""

    def prepare_create(self, kind: Kind, obj: Obj) -> None:
        """A new budget allows nothing before its controller has counted."""
        obj["status"] = dict.fromkeys(_COUNTS, 0)

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """One limit at most, a number or a percentage, and a selector."""
        return [] if sub else list(_spec_errors(new.get("spec") or {}))


def _spec_errors(spec: Obj) -> Iterator[FieldError]:
    if all(spec.get(limit) is not None for limit in _LIMITS):
        yield errors.bad_value("spec", {limit: spec[limit] for limit in _LIMITS},
                               "minAvailable and maxUnavailable cannot be both set")
    for limit in _LIMITS:
        value = spec.get(limit)
        if isinstance(value, int) and value < 0:
            yield errors.bad_value(f"spec.{limit}", value, "must be greater than or equal to 0")
        elif isinstance(value, str) and not re.fullmatch("[0-9]+%", value):
            yield errors.bad_value(f"spec.{limit}", value, _PERCENT)
        elif isinstance(value, str) and int(value[:-1]) > 100:
            yield errors.bad_value(f"spec.{limit}", value, "must not be greater than 100%")
    yield from selector_errors(spec.get("selector"), "spec.selector")


def evict(api: Api, kind: Kind, namespace: str, name: str, options: DeleteOptions) -> Obj:
    """Delete a pod if its budget allows it; one that does not run disrupts nothing.

    Raises:
        ApiError: 429 while the budget allows no disruption; `kubectl drain` tries again every five seconds.
    """
    pod = api.machinery.entry(kind, namespace, name).obj
    if pod.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]:
        budgets = [one for one in api.list(BUDGETS, namespace) if covers(one, pod, api.machinery.minor)]
        if len(budgets) > 1:
            raise ApiError(500, "", "This pod has more than one PodDisruptionBudget, which the eviction subresource"
                           " does not support.")
        if budgets and not _is_free(budgets[0], pod, api.machinery.minor):
            _take_one(api, budgets[0], name, dry_run=options.dry_run)
    if not options.dry_run:
        api.machinery.remove(kind, namespace, name, options)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def covers(budget: Obj, pod: Obj, minor: int) -> bool:
    """Whether a budget is about a pod; until 1.21 an empty selector selected nothing."""
    selector, labels = budget["spec"].get("selector"), pod["metadata"].get("labels") or {}
    empty = not any((selector or {}).values())
    return (minor >= 21 or not empty) and selects(selector, labels)


def _is_free(budget: Obj, pod: Obj, minor: int) -> bool:
    """Whether the pod is not counted as healthy, and so costs nothing."""
    if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or ()):
        return False
    if minor >= 26 and budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = budget["status"]
    return bool(status["currentHealthy"] >= status["desiredHealthy"] > 0)


def _take_one(api: Api, budget: Obj, pod: str, *, dry_run: bool) -> None:
    """Count the pod as disrupted before it is: its controller may come later than the next eviction."""
    name, status = budget["metadata"]["name"], budget["status"]
    if status.get("observedGeneration", 0) < budget["metadata"]["generation"]:
        raise _too_many(f"The disruption budget {name} is still being processed by the server.")
    if status["disruptionsAllowed"] <= 0:
        raise _too_many(f"The disruption budget {name} needs {status['desiredHealthy']} healthy pods and has"
                        f" {status['currentHealthy']} currently")

    def take(obj: Obj) -> Obj:
        was = obj["status"]
        disrupted = {**(was.get("disruptedPods") or {}), pod: timestamp()}
        obj["status"] = {**was, "disruptionsAllowed": was["disruptionsAllowed"] - 1, "disruptedPods": disrupted}
        return obj
    kind: Any = api.machinery.registry.kind(BUDGETS)
    api.machinery.change(kind, budget["metadata"]["namespace"], name, take, sub="status", dry_run=dry_run)


def _too_many(why: str) -> ApiError:
    return ApiError(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.",
                    {"causes": [{"reason": "DisruptionBudget", "message": why}]})
