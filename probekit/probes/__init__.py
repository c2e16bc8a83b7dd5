"""Fit linear heads to cached activations, judge them held out, and freeze the chosen one."""

from probekit.probes.bradley_terry import BradleyTerryProbe
from probekit.probes.classifiers import LogisticProbe, MeanDifferenceProbe
from probekit.probes.probe import Probe
from probekit.probes.result import SweepResult
from probekit.probes.ridge import RidgeProbe
from probekit.probes.sweep import SweepConfig, fit_sweep

__all__ = [
    "BradleyTerryProbe",
    "LogisticProbe",
    "MeanDifferenceProbe",
    "Probe",
    "RidgeProbe",
    "SweepConfig",
    "SweepResult",
    "fit_sweep",
]
