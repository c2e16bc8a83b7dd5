"""`RidgeProbe`: least squares on ratings; and what every linear estimator shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from probekit.probes.solvers import solve_ridge
from probekit.probes.spectrum import Array, Scaling, Spectrum
from probekit.probes.units import from_unit, target_range, to_unit


class LinearScore:
    """Mixin: `coef_` (d_model,) and `intercept_` in raw activation space give the score.

    Of several classes `coef_` is (n_classes, d_model) and `intercept_` (n_classes,).
    """

    coef_: Array
    intercept_: Any

    def raw_score(self, X: NDArray[Any]) -> Array:  # noqa: N803 - scikit-learn's name
        """Return X @ coef_ + intercept_, shape (n,), or (n, n_classes)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)  # noqa: N806
        return np.asarray(X @ self.coef_.T + self.intercept_)


class RidgeProbe(LinearScore, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Predict a rating: minimise |y - X w - b|^2 + l2 |w|^2.

    Parameters
    ----------
    l2
        Penalty on the weights of the (standardised) features; scikit-learn's `alpha`.
    standardize
        Divide each feature by its standard deviation first; folded into `coef_`.
    scale_target
        Map the ratings linearly to [-1, 1] by the range of `y` (or the range given) before the
        fit, so that a score means the same on any scale. None: fit `y` as it is.

    Attributes
    ----------
    coef_ : ndarray (d_model,)
        Weights in raw activation space.
    intercept_ : float
    score_range_ : tuple of float or None
        The ratings that are mapped to -1 and 1.

    References
    ----------
    S. Marks et al. and others fit such probes; the rating target follows UltraFeedback
    (arXiv:2310.01377). Differs from scikit-learn's Ridge only by the two maps above: with both off
    it is the same estimator.

    Examples
    --------
    >>> import numpy as np
    >>> from probekit.probes import RidgeProbe
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 4))
    >>> probe = RidgeProbe(l2=1e-6).fit(X, 5 + 2 * X[:, 0])
    >>> probe.coef_.shape, probe.predict(np.array([[1.0, 0, 0, 0]])).round(3)
    ((4,), array([7.]))
    """

    def __init__(
        self,
        l2: float = 1.0,
        *,
        standardize: bool = True,
        scale_target: bool | tuple[float, float] = True,
    ) -> None:
        self.l2 = l2
        self.standardize = standardize
        self.scale_target = scale_target

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> RidgeProbe:  # noqa: N803
        """Fit on activations X (n, d_model) and ratings y (n,)."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)  # noqa: N806
        scaling = Scaling.fit(X, center=True, standardize=self.standardize)
        self.score_range_ = target_range(y, self.scale_target)
        target = to_unit(y, self.score_range_)
        spectrum = Spectrum.of(scaling.apply(X))
        weights = spectrum.weights(solve_ridge(spectrum, target - target.mean(), self.l2))
        self.coef_, self.intercept_ = scaling.unfold(weights, float(target.mean()))
        return self

    def predict(self, X: NDArray[Any]) -> Array:  # noqa: N803
        """Return ratings in the units of `y`, shape (n,)."""
        return from_unit(self.raw_score(X), self.score_range_)
