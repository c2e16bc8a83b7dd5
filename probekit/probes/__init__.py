"""Fit linear heads to cached activations, judge them held out, and freeze the chosen one."""

from typing import TYPE_CHECKING

from probekit.lazy import lazy

if TYPE_CHECKING:
    from probekit.probes.bradley_terry import BradleyTerryProbe
    from probekit.probes.classifiers import LogisticProbe, MeanDifferenceProbe
    from probekit.probes.config import SweepConfig
    from probekit.probes.evaluation import ProbeEvaluation, evaluate
    from probekit.probes.probe import Probe
    from probekit.probes.result import SweepResult
    from probekit.probes.ridge import RidgeProbe
    from probekit.probes.sweep import fit_sweep
else:
    __getattr__ = lazy(
        __name__,
        bradley_terry="BradleyTerryProbe",
        classifiers="LogisticProbe MeanDifferenceProbe",
        config="SweepConfig",
        evaluation="ProbeEvaluation evaluate",
        probe="Probe",
        result="SweepResult",
        ridge="RidgeProbe",
        sweep="fit_sweep",
    )

__all__ = [
    "BradleyTerryProbe",
    "LogisticProbe",
    "MeanDifferenceProbe",
    "Probe",
    "ProbeEvaluation",
    "RidgeProbe",
    "SweepConfig",
    "SweepResult",
    "evaluate",
    "fit_sweep",
]
