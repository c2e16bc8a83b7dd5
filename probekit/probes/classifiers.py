"""`LogisticProbe` and `MeanDifferenceProbe`: log-odds of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from probekit.probes.ridge import LinearScore
from probekit.probes.solvers import solve_logistic, solve_multinomial
from probekit.probes.spectrum import Array, Scaling, Spectrum


class _TwoClasses(LinearScore, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What two-class probes share."""

    classes_: NDArray[Any]
    _several = False
    """Whether there may be more than two classes."""

    def decision_function(self, X: NDArray[Any]) -> Array:  # noqa: N803
        """Return the log-odds of `classes_[1]`, shape (n,), or the logits of several, (n, n_classes)."""
        return self.raw_score(X)

    def predict_proba(self, X: NDArray[Any]) -> Array:  # noqa: N803
        """Return the probabilities of the classes, shape (n, n_classes)."""
        one = self.decision_function(X)
        if one.ndim > 1:
            return np.asarray(softmax(one, axis=1))
        one = expit(one)
        return np.column_stack([1 - one, one])

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:  # noqa: N803
        """Return the class of every row, shape (n,)."""
        check_is_fitted(self)
        scores = self.decision_function(X)
        return np.asarray(
            self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]
        )

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 - scikit-learn's Tags
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = self._several
        return tags

    def _validated(self, X: NDArray[Any], y: NDArray[Any]) -> tuple[Array, Array]:  # noqa: N803
        X, y = validate_data(self, X, y, dtype=np.float64)  # noqa: N806
        check_classification_targets(y)
        self.classes_, code = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2 or (len(self.classes_) > 2 and not self._several):
            many = "Only binary classification is supported. " if len(self.classes_) > 2 else ""
            count = "1 class" if len(self.classes_) == 1 else f"{len(self.classes_)} classes"
            raise ValueError(f"{many}y: the data has {count}, expected 2.")
        return X, code.astype(np.float64)


class LogisticProbe(_TwoClasses):
    """Logistic regression: minimise sum softplus(-s (x w + b)) + l2/2 |w|^2 with s = -1, +1.

    Of three or more classes it is multinomial: sum -log softmax(x W + b)[y] + l2/2 |W|^2.

    Parameters
    ----------
    l2
        Penalty on the weights of the (standardised) features; scikit-learn's `1 / C`. Positive.
    standardize
        Divide each feature by its standard deviation first; folded into `coef_`.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
    coef_ : ndarray (d_model,), or (n_classes, d_model) of three or more
        Weights in raw activation space; the score is the log-odds of `classes_[1]`, or the logits.
    intercept_ : float, or ndarray (n_classes,)

    References
    ----------
    G. Alain and Y. Bengio, linear classifier probes (arXiv:1610.01644).

    Examples
    --------
    >>> import numpy as np
    >>> from probekit.probes import LogisticProbe
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((400, 3))
    >>> y = np.where(X[:, 0] > 0, "yes", "no")
    >>> probe = LogisticProbe(l2=1.0).fit(X, y)
    >>> probe.predict(np.array([[2.0, 0, 0], [-2.0, 0, 0]]))
    array(['yes', 'no'], dtype='<U3')
    """

    _several = True

    def __init__(self, l2: float = 1.0, *, standardize: bool = True) -> None:
        self.l2 = l2
        self.standardize = standardize

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> LogisticProbe:  # noqa: N803
        """Fit on activations X (n, d_model) and classes y (n,)."""
        X, code = self._validated(X, y)  # noqa: N806
        scaling = Scaling.fit(X, center=True, standardize=self.standardize)
        spectrum = Spectrum.of(scaling.apply(X))
        if (n := len(self.classes_)) > 2:
            several = solve_multinomial(spectrum.features, code.astype(np.int64), self.l2, n)
            self.coef_, self.intercept_ = scaling.unfold_several(
                spectrum.weights(several[0]), several[1]
            )
            return self
        w, b = solve_logistic(spectrum.features, 2 * code - 1, self.l2, intercept=True)
        self.coef_, self.intercept_ = scaling.unfold(spectrum.weights(w), b)
        return self


class MeanDifferenceProbe(_TwoClasses):
    """The direction from the mean of class 0 to the mean of class 1.

    Its length and bias are set by a logistic fit of the class on the projection, so that the score
    is a log-odds; the direction is untouched by it.

    References
    ----------
    S. Marks and M. Tegmark, The Geometry of Truth (arXiv:2310.06824), mass-mean probing. Differs
    from the paper: no covariance correction, and the score is calibrated.

    Examples
    --------
    >>> import numpy as np
    >>> from probekit.probes import MeanDifferenceProbe
    >>> X = np.array([[0.0, 1], [0, -1], [2, 1], [2, -1]])
    >>> probe = MeanDifferenceProbe().fit(X, np.array([0, 0, 1, 1]))
    >>> probe.coef_ / np.linalg.norm(probe.coef_)
    array([1., 0.])
    """

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> MeanDifferenceProbe:  # noqa: N803
        """Fit on activations X (n, d_model) and classes y (n,)."""
        X, code = self._validated(X, y)  # noqa: N806
        direction = X[code == 1].mean(axis=0) - X[code == 0].mean(axis=0)
        self.coef_, self.intercept_ = calibrate(X @ direction, 2 * code - 1, direction)
        return self


def calibrate(
    projection: Array, sign: Array, direction: Array, *, intercept: bool = True
) -> tuple[Array, float]:
    """Return the direction scaled, (d_model,), and the bias, that make the projection a log-odds.

    Parameters
    ----------
    projection
        Projection of the rows on the direction, shape (n,).
    sign
        +1 or -1, shape (n,).
    direction
        Shape (d_model,).
    intercept
        Whether there is a bias.
    """
    scaling = Scaling.fit(projection[:, None], center=intercept, standardize=True)
    # A little penalty keeps the scale finite when the classes are separable.
    w, b = solve_logistic(scaling.apply(projection[:, None]), sign, 1.0, intercept=intercept)
    (size,), bias = scaling.unfold(w, b)
    return size * direction, bias
