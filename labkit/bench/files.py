"""Files of results, whoever wrote them: documents of ours, and knb's."""

from __future__ import annotations

from pathlib import Path

from labkit.bench import knb_files
from labkit.bench.results import Run
from labkit.errors import ResultsError


def load(path: str | Path) -> Run:
    """Read a results document, or a `.knbdata` or JSON file of knb's.

    Args:
        path: the file; a folder that `knb -k` keeps is one, too.

    Raises:
        ResultsError: it is neither, is cut off, or a newer labkit wrote it.
    """
    source = Path(path)
    if source.is_dir():
        return knb_files.read(source)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise ResultsError(f"{source} cannot be read.", error.strerror or str(error), "give another path.") from error
    if knb_files.recognised(data):
        return knb_files.read(source)
    return Run.from_json(data, str(source))
