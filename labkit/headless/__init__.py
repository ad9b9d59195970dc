"""Running the course without a person: papermill in order, results, one report."""

from labkit.headless.runner import CourseRun, NotebookRun, run_course

__all__ = ["CourseRun", "NotebookRun", "run_course"]
