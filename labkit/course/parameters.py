"""A notebook's parameters, looked at before anything is created or measured.

A typing slip in the first cell must not come back as an index error twenty minutes later.
"""

from typing import Final

from labkit.errors import LabError

__all__ = ["ParameterError", "guess", "require_counts", "require_switch"]

#: What is a list, by its name in the notebooks.
_LISTS: Final = {"counts"}
_CURE: Final = "correct it in the cell at the top, or after `-p`, and run the notebook again."


class ParameterError(LabError):
    """A parameter of the notebook has a value that cannot be meant."""


def require_counts(**counts: object) -> None:
    """See that each parameter is a whole number above zero, or a list of such numbers.

    Args:
        counts: the notebook's parameters by name.

    Raises:
        ParameterError: one is not.
    """
    for name, value in counts.items():
        several = isinstance(value, list | tuple)
        if name in _LISTS and not several:
            raise ParameterError(
                f"The parameter {name} cannot be {value!r}.", "it must be a list, such as [10, 500, 2000].", _CURE
            )
        values = list(value) if isinstance(value, list | tuple) else [value]
        for one in values:
            if not isinstance(one, int) or isinstance(one, bool) or one < 1:
                raise ParameterError(
                    f"The parameter {name} cannot be {value!r}.",
                    f"{'each entry' if several else 'it'} must be a whole number above zero.",
                    _CURE,
                )
        if several and len(set(values)) < 2:
            raise ParameterError(
                f"The parameter {name} cannot be {value!r}.", "a slope needs two different numbers.", _CURE
            )


def require_switch(name: str, value: object) -> None:
    """See that a parameter is True, False or None; the word "False" would count as true.

    Raises:
        ParameterError: it is something else.
    """
    if value is not None and not isinstance(value, bool):
        raise ParameterError(f"The parameter {name} cannot be {value!r}.", "it must be True or False.", _CURE)


def guess(value: float | int | str, choices: tuple[str, ...]) -> float | int | str:
    """Return a guess, if it is a number, or one of the words where there are words to choose from.

    Raises:
        ParameterError: it is neither.
    """
    if choices and value not in choices:
        words = ", ".join(repr(choice) for choice in choices)
        raise ParameterError(f"The guess {value!r} is none of the answers.", f"they are {words}.", _CURE)
    if not choices and (isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300):
        raise ParameterError(f"The guess {value!r} is not a number.", "a number is what will be measured.", _CURE)
    return value
