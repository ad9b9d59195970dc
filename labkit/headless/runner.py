"""`run_course`: executes notebooks in order and keeps everything they showed."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from labkit.headless import collect, notebooks, report

__all__ = ["CourseRun", "Failure", "NotebookRun", "run_course"]

#: A cell that needs longer than this hangs: creating a cluster on Azure takes up to ten minutes.
CELL_TIMEOUT = 1800


@dataclass(frozen=True)
class Failure:
    """The cell that stopped a notebook, and what to do about it."""

    cell: int
    source: str
    error: str
    hint: str


@dataclass(frozen=True)
class NotebookRun:
    """One executed notebook."""

    name: str
    seconds: float
    executed: Path
    failure: Failure | None = None


@dataclass(frozen=True)
class CourseRun:
    """A whole run: the folder holds executed notebooks, results and the report."""

    folder: Path
    notebooks: tuple[NotebookRun, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every notebook ran to its end."""
        return all(run.failure is None for run in self.notebooks)

    @property
    def report(self) -> Path:
        """The one page with every chart."""
        return self.folder / "report.html"


def run_course(
    names: Sequence[str] = (),
    *,
    parameters: Mapping[str, Any] | None = None,
    results: Path = Path("results"),
    folder: Path | None = None,
    on_start: Callable[[Path], None] = lambda file: None,
    on_end: Callable[[NotebookRun], None] = lambda run: None,
) -> CourseRun:
    """Execute notebooks in order; stop at the first that fails.

    Args:
        names: lessons (``03``) or files; all when empty.
        parameters: values for the notebooks' parameters; each gets those it has.
        results: a folder named after the time is made in it.
        folder: where the notebooks are.
        on_start: called with each notebook before it runs.
        on_end: called with each result.

    Raises:
        LabError: an unknown notebook or parameter; nothing has run then.
    """
    files = notebooks.find(names, folder or notebooks.default_folder())
    wanted = notebooks.share(parameters or {}, files)
    target = _fresh(results)
    runs: list[NotebookRun] = []
    started = time.monotonic()
    with _environment(LABKIT_HEADLESS="1", LABKIT_PROGRESS=str(target / "progress.json")):
        for file in files:
            on_start(file)
            runs.append(_execute(file, target / file.name, wanted[file]))
            on_end(runs[-1])
            if runs[-1].failure:
                break
    course = CourseRun(target, tuple(runs), round(time.monotonic() - started, 1))
    _write(course)
    return course


def _execute(file: Path, executed: Path, parameters: dict[str, Any]) -> NotebookRun:
    # Imported here: papermill takes a second to load and `labkit --help` should not.
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    started = time.monotonic()
    failure = None
    try:
        # Sockets in the file system: nothing listens on TCP, and no kernel warns that it does.
        with tempfile.TemporaryDirectory(prefix="labkit-") as sockets:
            papermill.execute_notebook(
                str(file),
                str(executed),
                parameters=parameters,
                kernel_name="python3",
                language="python",
                config=Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"}),
                progress_bar=False,
                log_output=False,
                cwd=str(file.parent),
                execution_timeout=CELL_TIMEOUT,
                # A kernel is interrupted before it is shut down, and would say so where progress is shown.
                extra_arguments=["--IPKernelApp.log_level=50"],
                request_save_on_cell_execute=True,  # what was done is there, however it ends
                autosave_cell_every=0,
            )
    except PapermillExecutionError as error:
        said = f"{error.ename}: {error.evalue}"
        failure = Failure(error.cell_index, error.source, said, _hint(error.evalue, executed))
    except DeadKernelError:
        failure = _cut_off(file, executed, "The kernel died.",
                           "see whether the machine ran out of memory (`dmesg | tail`), then run it again")
    except CellTimeoutError:
        failure = _cut_off(file, executed, f"The cell did not end within {CELL_TIMEOUT} s.",
                           "`labkit doctor` says what is not well")
    except KeyboardInterrupt:
        failure = _cut_off(file, executed, "Interrupted.",
                           "run it again: each notebook brings the lab to the state that it needs")
    return NotebookRun(file.stem, round(time.monotonic() - started, 1), executed, failure)


def _cut_off(file: Path, executed: Path, why: str, hint: str) -> Failure:
    """Note in the executed notebook that it ended in the cell that was last begun, for the report to say so."""
    book = json.loads((executed if executed.exists() else file).read_text(encoding="utf-8"))
    begun = [i for i, cell in enumerate(book["cells"]) if cell["metadata"].get("papermill", {}).get("start_time")]
    index = begun[-1] if begun else 0
    cell = book["cells"][index]
    if cell["cell_type"] == "code":
        cell["outputs"] = [output for output in cell["outputs"] if output["output_type"] != "error"]
        cell["outputs"].append({"output_type": "error", "ename": "Stopped", "evalue": why, "traceback": []})
    executed.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Failure(index, "".join(cell["source"]), why, hint)


def _hint(message: str, executed: Path) -> str:
    """Return the last line of the error that says what to do; labkit's errors and checks have one."""
    for line in reversed(message.splitlines()):
        word, _, rest = line.strip().partition(":")
        if word.casefold() in ("what to do", "hint") and rest:
            return rest.strip()
    return f"open {executed.name} in the results folder, the failing cell is marked; then `labkit doctor`"


def _write(course: CourseRun) -> None:
    executed = [(run, json.loads(run.executed.read_text(encoding="utf-8"))) for run in course.notebooks]
    for run, document in executed:
        collect.write_results(document, course.folder, run.name)
    pages = [report.Page(run.name, run.seconds, run.failure is None, document) for run, document in executed]
    course.report.write_text(report.render(pages, seconds=course.seconds), encoding="utf-8")
    runs = [asdict(run) for run in course.notebooks]
    summary = {"schema": 1, "ok": course.ok, "seconds": course.seconds, "notebooks": runs}
    (course.folder / "run.json").write_text(json.dumps(summary, indent=1, default=_plain), encoding="utf-8")


def _plain(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)


def _fresh(results: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{n}" for n in range(2, 100))):
        target = results / f"{stamp}{suffix}"
        try:
            target.mkdir(parents=True)
        except FileExistsError:
            continue
        return target.resolve()
    raise FileExistsError(f"{results}/{stamp}: a hundred runs began in this second")


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables for the kernels that we start, and put back what was there."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
