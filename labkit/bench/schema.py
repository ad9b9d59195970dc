"""What a results document is, by `data/run.schema.json`; and what is wrong with one that is not."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from labkit.errors import ResultsError
from labkit.reference import data_file

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

VERSION = 2
SCHEMA = f"labkit.dev/run/v{VERSION}"
_AGAIN = "copy it again from where it was written."


def parse(text: str | bytes, name: str) -> dict[str, Any]:
    """Read a results document, and hold it against the schema; one of an older schema is brought up to this one.

    Args:
        text: the document.
        name: how to call it in errors.

    Raises:
        ResultsError: it is not one, it is cut off, it has something wrong in it, or a newer labkit wrote it.
    """
    try:
        words = text if isinstance(text, str) else text.decode()
        document = json.loads(words, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        if words.lstrip()[:1] == "{" and (words.rstrip()[-1:] != "}" or error.pos >= len(words.rstrip())):
            raise ResultsError(f"{name} is cut off.", f"it ends in the middle: {error}", _AGAIN) from error
        raise _none(name, str(error)) from error
    except ValueError as error:
        raise _none(name, str(error)) from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if not (version := re.fullmatch(r"labkit\.dev/run/v(\d+)", str(schema))):
        raise _none(name, "it does not say that it is one")
    if int(version[1]) > VERSION:
        raise ResultsError(f"{name} is of schema {schema}; this version reads {SCHEMA}.",
                           "a newer labkit has written it", "update labkit.")
    if int(version[1]) == 1:
        _from_1(document)
    if wrong := _first_error(document):
        raise ResultsError(f"{name} is no complete results document.", wrong, _AGAIN)
    return document  # type: ignore[no-any-return]


def _from_1(document: dict[str, Any]) -> None:
    """Version 1 was written at the end only, did not say by whom, and had no details."""
    samples = document.get("samples")
    if isinstance(samples, list):
        for sample in samples:
            if isinstance(sample, dict):
                sample.setdefault("detail", {})
        last = [s.get("at", "") for s in samples if isinstance(s, dict)][-1:]
        document["finished"] = last[0] if last else document.get("started", "")
    if isinstance(provenance := document.get("provenance"), dict):
        document["provenance"] = {"labkit": "", "parameters": {}, "arms": {}} | provenance
    document["schema"] = SCHEMA


def _first_error(document: Any) -> str | None:
    """What is wrong first, with where it is; None if nothing is."""
    errors = sorted(_validator().iter_errors(document), key=lambda error: [str(part) for part in error.absolute_path])
    if not errors:
        return None
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in errors[0].absolute_path)
    return f"{where.lstrip('.') or 'the document'}: {errors[0].message[:200]}"


@cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator  # slow to load, and only files of results need it

    return Draft202012Validator(json.loads(data_file("run.schema.json").read_text(encoding="utf-8")))


def _none(name: str, why: str) -> ResultsError:
    return ResultsError(f"{name} is not a results document.", why, "give a file that a run of labkit has written.")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")
