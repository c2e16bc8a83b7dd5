"""Fit linear heads to cached activations, judge them held out, and freeze the chosen one."""

from typing import TYPE_CHECKING

from probekit.lazy import lazy

if TYPE_CHECKING:
    from probekit.probes.bradley_terry import BradleyTerryProbe as BradleyTerryProbe
    from probekit.probes.classifiers import LogisticProbe as LogisticProbe
    from probekit.probes.classifiers import MeanDifferenceProbe as MeanDifferenceProbe
    from probekit.probes.config import SweepConfig as SweepConfig
    from probekit.probes.evaluation import ProbeEvaluation as ProbeEvaluation
    from probekit.probes.evaluation import evaluate as evaluate
    from probekit.probes.probe import Probe as Probe
    from probekit.probes.result import SweepResult as SweepResult
    from probekit.probes.ridge import RidgeProbe as RidgeProbe
    from probekit.probes.sweep import fit_sweep as fit_sweep
else:
    __getattr__, __all__ = lazy(
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
