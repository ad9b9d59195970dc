"""Preflight of a machine and a target, diagnosis of a cluster, and faults to practise on."""

from labkit.doctor.checks import diagnose
from labkit.doctor.faults import Faults
from labkit.doctor.preflight import preflight
from labkit.doctor.report import Finding, Report

__all__ = ["Faults", "Finding", "Report", "diagnose", "preflight"]
