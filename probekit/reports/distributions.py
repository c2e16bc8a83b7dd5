"""The outline of a histogram."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray


def outline(
    edges: NDArray[np.float64], counts: NDArray[np.int64] | NDArray[np.float64], color: str
) -> go.Scatter:
    """Return the histogram's outline, so that overlaid ones stay apart in grey print."""
    return go.Scatter(
        x=[edges[0], *edges.tolist(), edges[-1]],
        y=[0, counts.tolist()[0], *counts.tolist(), 0],
        mode="lines",
        line=dict(color=color, width=1.6, shape="vh"),
        hoverinfo="skip",
        showlegend=False,
    )
