"""Preflight of a machine and a target, diagnosis of a cluster, and faults to practise on."""

from labkit.doctor.diagnosis import diagnose, rows
from labkit.doctor.faults import Faults
from labkit.doctor.preflight import preflight
from labkit.doctor.report import Finding, Report
from labkit.doctor.rows import explain

__all__ = ["Faults", "Finding", "Report", "diagnose", "explain", "preflight", "rows"]
