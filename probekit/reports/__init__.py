"""Results on disk -> rows -> plotly figures -> one self-contained HTML file.

Nothing here imports plotly until a report is written.
"""

from probekit.reports.load import load_sweep
from probekit.reports.sweep import write_sweep_report

__all__ = ["load_sweep", "write_sweep_report"]
