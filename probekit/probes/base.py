"""What the estimators share: raw-space weights and the scores they give."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted, validate_data

from probekit.probes.spectrum import Array


class LinearScore:
    """Mixin: `coef_` (d_model,) and `intercept_` in raw activation space give the score."""

    coef_: Array
    intercept_: float

    def raw_score(self, X: NDArray[Any]) -> Array:  # noqa: N803 - scikit-learn's name
        """Return X @ coef_ + intercept_, shape (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)  # noqa: N806
        return np.asarray(X @ self.coef_ + self.intercept_)
