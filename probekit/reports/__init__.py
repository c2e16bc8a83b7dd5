"""Results on disk -> frames -> plotly figures -> one self-contained HTML file.

Nothing here imports plotly until a report is written.
"""

from typing import TYPE_CHECKING

from probekit.lazy import lazy

if TYPE_CHECKING:
    from probekit.reports.dynamics import write_dynamics_report
    from probekit.reports.old_study import write_study_report
    from probekit.reports.rl import write_rl_report
    from probekit.reports.rl_load import load_rl
    from probekit.reports.steer import write_steer_report
    from probekit.reports.study_load import load_study
    from probekit.reports.sweep import write_sweep_report
else:
    __getattr__ = lazy(
        __name__,
        dynamics="write_dynamics_report",
        old_study="write_study_report",
        rl="write_rl_report",
        rl_load="load_rl",
        steer="write_steer_report",
        study_load="load_study",
        sweep="write_sweep_report",
    )

__all__ = [
    "load_rl",
    "load_study",
    "write_dynamics_report",
    "write_rl_report",
    "write_steer_report",
    "write_study_report",
    "write_sweep_report",
]
