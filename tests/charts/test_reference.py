"""What others measured: complete, and said where from."""

from pathlib import Path

import pytest

from labkit import reference

README = (Path(__file__).resolve().parents[2] / "data" / "README.md").read_text(encoding="utf-8")
FLOWS = ["pod to pod, TCP", "pod to pod, UDP", "pod to service, TCP", "pod to service, UDP"]


@pytest.mark.parametrize("name", reference.ids())
def test_each_dataset_says_where_it_is_from_and_what_to_doubt(name: str) -> None:
    data = reference.load(name)
    for word in (data.title, data.short, data.source, data.method, data.unit, data.caveat):
        assert word.strip(), name
    assert 2017 <= data.year <= 2026
    assert str(data.year) in data.short
    assert data.rows
    assert all(len(row) == len(data.columns) for row in data.rows)
    assert len(set(data.columns)) == len(data.columns)
    assert f"`{name}`" in README


@pytest.mark.parametrize("name", reference.ids())
def test_figures_are_numbers_and_intervals_hold_what_they_are_of(name: str) -> None:
    data = reference.load(name)
    for row in data.rows:
        assert all(value is None or isinstance(value, int | float) for value in row[1:])
    for column in data.columns:
        if f"{column}_low" in data.columns:
            middle, low, high = (data.column(column + end) for end in ("", "_low", "_high"))
            assert all(a <= v <= b for v, a, b in zip(middle, low, high, strict=True))  # type: ignore[operator]


@pytest.mark.parametrize("name", [n for n in reference.ids() if "reduction_percent" in reference.load(n).columns])
def test_reductions_are_what_their_own_figures_say(name: str) -> None:
    data = reference.load(name)
    assert data.column("flow") == FLOWS, "the names that suites give their cases"
    before, after = data.column(data.columns[1]), data.column("calico_ebpf")
    for b, a, said in zip(before, after, data.column("reduction_percent"), strict=True):
        assert 100 * (1 - a / b) == pytest.approx(said, abs=0.3)  # type: ignore[operator]


def test_the_article_said_11_to_41_percent() -> None:
    said = reference.load("article-cpu").column("reduction_percent")
    assert (min(said), max(said)) == (11.0, 41.1)  # type: ignore[type-var]


def test_a_name_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(KeyError, match="article-cpu"):
        reference.load("nothing")
