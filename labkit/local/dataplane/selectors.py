"""Label selectors: Calico's language and Kubernetes' objects, both compiled to one kind of predicate."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

Labels = Mapping[str, str]
Predicate = Callable[[Labels], bool]


class SelectorError(ValueError):
    """A selector that Calico would refuse; the message shows where it stops making sense."""


# As in Calico, a blank is a space or a tab: a line's end is none.
_TOKEN = re.compile(r"""[ \t]*(?:
    (?P<call>all\([ \t]*\)|global\([ \t]*\))
  | has\([ \t]*(?P<has>[\w./-]+)[ \t]*\)
  | (?P<op>==|!=|&&|\|\||!|\(|\)|\{|\}|,)
  | (?P<word>(?:not[ \t]*in|in)(?=[ \t]*\{)|(?:starts[ \t]*with|ends[ \t]*with|contains)(?=[ \t]*["']))
  | (?P<string>"[^"]*"|'[^']*')
  | (?P<label>[\w./-]+)
  )""", re.VERBOSE | re.ASCII)


@lru_cache(maxsize=4096)
def parse(text: str, every: str = "") -> Predicate:
    """Compile a selector in Calico's language.

    Operators: `k == 'v'`, `!=`, `in {…}`, `not in {…}`, `has(k)`, `contains`, `starts with`, `ends with`,
    `all()`, `!`, `&&`, `||` and parentheses. An empty selector matches everything.

    Args:
        text: the selector.
        every: a label that `all()` asks for; "" where it matches whatever there is.

    Raises:
        SelectorError: the text is not a selector.
    """
    return _Parser(text, every).whole()


class _Parser:
    def __init__(self, text: str, every: str = "") -> None:
        self.text, self.every = text, every
        self.tokens: list[tuple[str, str]] = []
        at, end = 0, len(text.rstrip(" \t"))
        while at < end:
            match = _TOKEN.match(text, at)
            if not match or not match.lastgroup:
                raise SelectorError(f"invalid selector {text!r}: unexpected {text[at:].strip()!r}")
            value = match[match.lastgroup]
            if match.lastgroup == "word":
                value = "".join(value.split())
            self.tokens.append((match.lastgroup, value))
            at = match.end()
        self.at = 0

    def whole(self) -> Predicate:
        if not self.tokens:
            return lambda labels: True
        predicate = self._or()
        if self.at < len(self.tokens):
            raise self._unexpected()
        return predicate

    def _take(self, *kinds: str) -> tuple[str, str]:
        if self.at >= len(self.tokens):
            raise SelectorError(f"invalid selector {self.text!r}: it ends too early")
        kind, value = self.tokens[self.at]
        if kinds and kind not in kinds and value not in kinds:
            raise self._unexpected()
        self.at += 1
        return kind, value

    def _next_is(self, value: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] == ("op", value)

    def _unexpected(self) -> SelectorError:
        return SelectorError(f"invalid selector {self.text!r}: unexpected {self.tokens[self.at][1]!r}")

    def _or(self) -> Predicate:
        terms = [self._and()]
        while self._next_is("||"):
            self.at += 1
            terms.append(self._and())
        return terms[0] if len(terms) == 1 else lambda labels: any(term(labels) for term in terms)

    def _and(self) -> Predicate:
        terms = [self._not()]
        while self._next_is("&&"):
            self.at += 1
            terms.append(self._not())
        return terms[0] if len(terms) == 1 else lambda labels: all(term(labels) for term in terms)

    def _not(self) -> Predicate:
        if self._next_is("!"):
            self.at += 1
            inner = self._not()
            return lambda labels: not inner(labels)
        return self._operand()

    def _operand(self) -> Predicate:
        kind, value = self._take()
        if kind == "call":
            every = self.every
            return lambda labels: not every or every in labels
        if kind == "has":
            return lambda labels: value in labels
        if value == "(":
            inner = self._or()
            self._take(")")
            return inner
        if kind != "label":
            self.at -= 1
            raise self._unexpected()
        return self._comparison(value)

    def _comparison(self, key: str) -> Predicate:
        _, operator = self._take("==", "!=", "word")
        if operator in ("in", "notin"):
            values = self._set()
            if operator == "in":
                return lambda labels: labels.get(key) in values
            return lambda labels: labels.get(key) not in values
        wanted = self._take("string")[1][1:-1]
        match operator:
            case "==":
                return lambda labels: labels.get(key) == wanted
            case "!=":
                return lambda labels: labels.get(key) != wanted
            case "contains":
                return lambda labels: key in labels and wanted in labels[key]
            case "startswith":
                return lambda labels: key in labels and labels[key].startswith(wanted)
            case _:
                return lambda labels: key in labels and labels[key].endswith(wanted)

    def _set(self) -> frozenset[str]:
        self._take("{")
        values = set()
        while not self._next_is("}"):
            values.add(self._take("string")[1][1:-1])
            if not self._next_is("}"):
                self._take(",")
        self.at += 1
        return frozenset(values)


def from_kubernetes(selector: Mapping[str, Any] | None) -> Predicate:
    """Compile a Kubernetes LabelSelector; an empty one matches everything, None nothing."""
    if selector is None:
        return lambda labels: False
    wanted = dict(selector.get("matchLabels") or {})
    tests: list[Predicate] = [_expression(e) for e in selector.get("matchExpressions") or ()]
    return lambda labels: (all(labels.get(k) == v for k, v in wanted.items())
                           and all(test(labels) for test in tests))


def _expression(expression: Mapping[str, Any]) -> Predicate:
    key, values = expression["key"], frozenset(expression.get("values") or ())
    match expression["operator"]:
        case "In":
            return lambda labels: labels.get(key) in values
        case "NotIn":
            return lambda labels: labels.get(key) not in values
        case "Exists":
            return lambda labels: key in labels
        case "DoesNotExist":
            return lambda labels: key not in labels
        case operator:
            raise SelectorError(f"{operator!r} is not a valid label selector operator")
