"""Results on disk -> frames -> plotly figures -> one self-contained HTML file.

A `write_..._report` takes the directory that its command wrote, and returns the path of its page: `out`,
`report.html` in the directory by default. It raises ProbeError where the directory is no such output, is
partial or is of a newer probekit, and OutputError where `out` exists and `force` is not set, or cannot be
written. Nothing here imports plotly until then; that of a study is `studies.write_study_report`.
"""

from typing import TYPE_CHECKING

from probekit.lazy import lazy

if TYPE_CHECKING:
    from probekit.reports.dynamics import write_dynamics_report as write_dynamics_report
    from probekit.reports.evaluate import evaluate_figures as evaluate_figures
    from probekit.reports.evaluate import write_evaluate_report as write_evaluate_report
    from probekit.reports.rl import write_rl_report as write_rl_report
    from probekit.reports.steer import steer_figures as steer_figures
    from probekit.reports.steer import write_steer_report as write_steer_report
    from probekit.reports.sweep import sweep_figures as sweep_figures
    from probekit.reports.sweep import write_sweep_report as write_sweep_report
else:
    __getattr__, __all__ = lazy(
        __name__,
        dynamics="write_dynamics_report",
        evaluate="evaluate_figures write_evaluate_report",
        rl="write_rl_report",
        steer="steer_figures write_steer_report",
        sweep="sweep_figures write_sweep_report",
    )
