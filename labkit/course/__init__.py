"""The course around the lab: lessons, checks, predictions and progress."""

from labkit.course.checks import CheckFailed, CheckReport
from labkit.course.course import ChecksNotPassed, Course
from labkit.course.lessons import LESSONS, Lesson
from labkit.course.parameters import ParameterError
from labkit.course.progress import Progress

__all__ = ["LESSONS", "CheckFailed", "CheckReport", "ChecksNotPassed", "Course", "Lesson", "ParameterError", "Progress"]
