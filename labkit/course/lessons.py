"""The table of lessons: one row for each notebook, in order."""

from dataclasses import dataclass
from typing import Final

from labkit.errors import LabError

__all__ = ["LESSONS", "Lesson", "lesson", "next_lesson"]


@dataclass(frozen=True)
class Lesson:
    """One notebook."""

    slug: str
    title: str

    @property
    def number(self) -> str:
        """The two digits that lessons, checks and predictions are named by."""
        return self.slug[:2]

    @property
    def file(self) -> str:
        """The notebook's file name."""
        return f"{self.slug}.ipynb"


LESSONS: Final = (
    Lesson("00_start_here", "Start here"),
    Lesson("01_create_the_cluster", "Create the cluster"),
    Lesson("02_look_around", "Look around"),
    Lesson("03_enable_ebpf", "Enable eBPF"),
    Lesson("04_benchmark", "Measure what it costs"),
    Lesson("05_services_at_scale", "Services at scale"),
    Lesson("06_source_addresses", "Source addresses"),
    Lesson("07_policies_on_clients", "Policies on clients"),
    Lesson("08_inside_the_data_plane", "Inside the data plane"),
    Lesson("09_when_it_breaks", "When it breaks"),
    Lesson("10_clean_up", "Clean up"),
)


def lesson(number: str) -> Lesson:
    """Return the lesson with these two digits.

    Raises:
        LabError: there is none.
    """
    for candidate in LESSONS:
        if candidate.number == number:
            return candidate
    raise LabError(f"There is no lesson {number!r}.", "",
                   f'there are "{LESSONS[0].number}" to "{LESSONS[-1].number}", two digits in quotes.')


def next_lesson(number: str) -> Lesson | None:
    """Return the lesson after this one, or None after the last."""
    index = LESSONS.index(lesson(number)) + 1
    return LESSONS[index] if index < len(LESSONS) else None
