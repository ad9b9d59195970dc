"""The words of tables: ages and durations as kubectl prints them, and what a column's path finds."""

from __future__ import annotations

import re
import time
from calendar import timegm
from typing import Any

NONE = "<none>"
UNKNOWN = "<unknown>"


def duration(seconds: float) -> str:
    """A duration as kubectl prints ages."""
    s = int(seconds)
    if s < -1:
        return "<invalid>"
    s = max(s, 0)
    if s < 120:
        return f"{s}s"
    m = s // 60
    if m < 10:
        return f"{m}m{s % 60}s" if s % 60 else f"{m}m"
    if m < 180:
        return f"{m}m"
    h = s // 3600
    if h < 8:
        return f"{h}h{m % 60}m" if m % 60 else f"{h}h"
    if h < 48:
        return f"{h}h"
    d = h // 24
    if d < 8:
        return f"{d}d{h % 24}h" if h % 24 else f"{d}d"
    if d < 730:
        return f"{d}d"
    y = d // 365
    return f"{y}y{d % 365}d" if y < 8 and d % 365 else f"{y}y"


def seconds_since(stamp: str | None) -> float | None:
    """Seconds since a timestamp."""
    if not stamp:
        return None
    try:
        return time.time() - timegm(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def age(stamp: Any) -> str:
    """How long ago."""
    seconds = seconds_since(stamp if isinstance(stamp, str) else None)
    return UNKNOWN if seconds is None else duration(seconds)


def json_path(obj: Any, path: str) -> Any:
    """A simple JSONPath, as printer columns use: fields, indexes, and filters by equality."""
    values = [obj]
    for m in re.finditer(r"\.?(?:\[\?\(@\.([\w.]+)\s*==\s*[\"']([^\"']*)[\"']\)\]|\[(\d+|\*)\]|\[['\"]([^'\"]+)['\"]\]"
                         r"|((?:[\w-]|\\\.)+))", path.strip("{}")):
        where, equals, index, quoted, name = m.groups()
        found: list[Any] = []
        for value in values:
            if where is not None:
                found += [v for v in value if json_path(v, where) == equals] if isinstance(value, list) else []
            elif index is not None:
                if isinstance(value, list):
                    found += value if index == "*" else value[int(index):int(index) + 1]
            elif isinstance(value, dict):
                key = quoted or name.replace("\\.", ".")
                if key in value:
                    found.append(value[key])
        values = found
    if not values:
        return None
    return values[0] if len(values) == 1 else ",".join(map(str, values))
