"""How accuracy falls with the number of hops: a per-hop reliability and the horizon that follows from it.

The model is accuracy(k) = chance + (1 - chance) * ceiling * reliability ** k: an answer is known when the story was
understood at all (``ceiling``) and each of k hops succeeded (``reliability``), and guessed otherwise. Both are
fitted by binomial maximum likelihood. The ceiling is 1 unless freeing it raises the likelihood beyond what chance
would in one fit of twenty, because two free parameters on a short range of k trade off against each other and
neither is then worth reading.

k is the length of the chain that a record holds as ``k_hop``, as in every published table. Under the protocol
``official`` two agents of the chain may be closer than its ends, and the reliability is then one per link of the
chain rather than per link that must be followed; ask stories of the protocol ``exact``, where the two are the same,
to read it as the latter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

__all__ = ["Decay", "fit_decay"]

_LOSS = 30.0
"""Largest loss, in -log of a probability: what is left of it is nothing in double precision of an accuracy."""

_FAR = 1e4
"""A horizon beyond this many hops is reported as unbounded."""

_HALF = math.log(2)

_ROUNDING = 1e-12
"""Share of a log-likelihood by which summing it may be off."""


@dataclass(frozen=True, slots=True)
class Decay:
    """A fitted decay, or why there is none.

    Attributes:
        reliability: probability that one more hop succeeds, in [0, 1]; None without a fit.
        reliability_low: lower bound by profile likelihood.
        reliability_high: upper bound.
        ceiling: chance-centred accuracy at no hops, in [0, 1]; 1 where it was not freed.
        ceiling_free: whether it was fitted.
        horizon: number of hops at which the chance-centred accuracy falls to one half; 0 if it is below that from
            the start, None without a fit or where it never does.
        horizon_low: lower bound by profile likelihood; None where there is no fit.
        horizon_high: upper bound; None where there is none, or no fit.
        deviance: twice the log-likelihood's distance from a free accuracy at every k.
        degrees: degrees of freedom of the deviance.
        p_fit: probability of a deviance this large if the model holds; small means that accuracy does not fall by
            a constant factor. None where no degree of freedom is left.
        reason: why there is no fit, or what is special about it; None for neither.
    """

    reliability: float | None = None
    reliability_low: float | None = None
    reliability_high: float | None = None
    ceiling: float | None = None
    ceiling_free: bool = False
    horizon: float | None = None
    horizon_low: float | None = None
    horizon_high: float | None = None
    deviance: float | None = None
    degrees: int | None = None
    p_fit: float | None = None
    reason: str | None = None


def fit_decay(
    k: Sequence[int], correct: Sequence[int], n: Sequence[int], chance: float, confidence: float = 0.95
) -> Decay:
    """Fit the decay of accuracy with k.

    Args:
        k: hop counts, each at least 1.
        correct: right answers at each.
        n: answers at each; those without any are left out.
        chance: accuracy of guessing, in [0, 1).
        confidence: coverage of the intervals, in (0, 1).

    Returns:
        The fit. With fewer than two k, or accuracy that cannot be told from guessing, all is None but the reason.
    """
    rows = [row for row in zip(k, correct, n, strict=True) if row[2] > 0]
    if len({row[0] for row in rows}) < 2:
        return Decay(reason="answers at fewer than two k: nothing to fit a decay to")
    if any(row[0] < 1 for row in rows):
        return Decay(reason="stories without a number of hops")
    return _Fit(rows, chance, confidence).decay()


class _Fit:
    """The likelihood of one set of counts, in the losses u = -log(reliability) and v = -log(ceiling)."""

    def __init__(self, rows: Sequence[tuple[int, int, int]], chance: float, confidence: float) -> None:
        import numpy as np
        from scipy.stats import chi2

        self.k, right, n = np.array(rows, dtype=np.float64).T
        self.right, self.wrong = right, n - right
        self.chance = chance
        self.reach = float(chi2.ppf(confidence, 1))
        # Points from next to no loss to nothing left, dense where accuracies differ.
        self.grid: F64 = np.concatenate([[0.0], np.geomspace(1e-7, _LOSS, 161)])

    def likelihood(self, u: Any, v: Any) -> Any:
        """Return the log-likelihood, without its constant, for arrays of losses."""
        import numpy as np
        from scipy.special import xlogy

        loss = np.multiply.outer(u, self.k) + np.asarray(v)[..., None]
        miss = (1 - self.chance) * -np.expm1(-loss)
        return (xlogy(self.right, 1 - miss) + xlogy(self.wrong, miss)).sum(-1)

    def decay(self) -> Decay:
        import numpy as np
        from scipy.special import xlogy
        from scipy.stats import chi2

        # A bound of the parameter's range is tested: half of the null's mass lies on it.
        enough = float(chi2.ppf(0.9, 1))
        u, top = _maximise(lambda x: self.likelihood(x, 0.0 * x), self.grid)
        v, free = 0.0, False
        if len(np.unique(self.k)) > 2:
            u2, v2, top2 = self._free()
            if 2 * (top2 - top) > enough:
                u, v, top, free = u2, v2, top2, True
        guessing = float(self.likelihood(np.array([2 * _LOSS]), np.array([2 * _LOSS]))[0])
        if 2 * (top - guessing) < float(chi2.ppf(0.9, 1 + free)):
            return Decay(reason="accuracy cannot be told from guessing")
        total = self.right + self.wrong
        best = float((xlogy(self.right, self.right / total) + xlogy(self.wrong, self.wrong / total)).sum())
        deviance = max(0.0, 2 * (best - top))
        degrees = len(np.unique(self.k)) - 1 - free
        u_low, u_high = self._loss_bounds(u, top, free)
        horizon, low, high = self._horizon(u, v, top, (u_low, u_high), free)
        return Decay(
            reliability=math.exp(-u),
            reliability_low=math.exp(-u_high),
            reliability_high=math.exp(-u_low),
            ceiling=math.exp(-v),
            ceiling_free=free,
            horizon=horizon,
            horizon_low=low,
            horizon_high=high,
            deviance=deviance,
            degrees=degrees,
            p_fit=float(chi2.sf(deviance, degrees)) if degrees > 0 else None,
            reason=self._remark(horizon),
        )

    def _remark(self, horizon: float | None) -> str | None:
        if not self.wrong.any():
            return "every answer is right: the horizon lies beyond the k asked"
        if horizon is None:
            return "accuracy does not fall with k: no horizon"
        if horizon == 0:
            return "less than half of what guessing leaves is right from the start"
        return None

    def _free(self) -> tuple[float, float, float]:
        """Return both losses and the log-likelihood at its maximum."""

        def profile(losses: F64) -> F64:
            import numpy as np

            return np.array([self._best_ceiling(float(each))[1] for each in losses])

        u, top = _maximise(profile, self.grid[::4])
        return u, self._best_ceiling(u)[0], top

    def _best_ceiling(self, u: float) -> tuple[float, float]:
        # For a given reliability the accuracy is linear in the ceiling, so its likelihood has one top.
        return _maximise(lambda v: self.likelihood(u + 0.0 * v, v), self.grid)

    def _loss_bounds(self, u: float, top: float, free: bool) -> tuple[float, float]:
        def excess(loss: float) -> float:
            import numpy as np

            fixed = float(self.likelihood(np.array([loss]), np.array([0.0]))[0])
            best = self._best_ceiling(loss)[1] if free else fixed
            # A certain answer that was wrong has a deviance of infinity, which root finding cannot use.
            return min(2 * (top - best), 1e9) - self.reach

        return _cross(excess, u, 0.0, 0.0), _cross(excess, u, _LOSS, _LOSS)

    def _horizon(
        self, u: float, v: float, top: float, losses: tuple[float, float], free: bool
    ) -> tuple[float | None, float | None, float | None]:
        """Return the horizon and its bounds, None where they are infinite."""
        point = 0.0 if v >= _HALF else (_HALF - v) / u if u > 0 else math.inf
        if not free:
            low, high = (_HALF / loss if loss > 0 else math.inf for loss in reversed(losses))
        else:

            def excess(horizon: float) -> float:
                return 2 * (top - self._best_with_horizon(horizon)) - self.reach

            low = _cross(excess, min(point, _FAR), 0.0, 0.0) if point > 0 else 0.0
            high = _cross(excess, min(point, _FAR), _FAR, math.inf)
        ends = [None if each >= _FAR else each for each in (point, low, high)]
        return ends[0], ends[1], ends[2]

    def _best_with_horizon(self, horizon: float) -> float:
        """Return the best log-likelihood among the decays that fall to one half at this horizon."""
        import numpy as np

        # The ceiling is at most 1, so the loss of a hop is at most log(2) / horizon.
        scale = min(1.0, _HALF / _LOSS / horizon) if horizon > 0 else 1.0
        return _maximise(lambda u: self.likelihood(u, np.maximum(0.0, _HALF - u * horizon)), self.grid * scale)[1]


def _maximise(function: Callable[[Any], Any], grid: F64) -> tuple[float, float]:
    """Return the place and the height of a function's maximum over the range of a grid."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    heights = function(grid)
    best = int(np.argmax(heights))
    span = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)]))
    found = minimize_scalar(
        lambda x: -float(function(np.array([x]))[0]), bounds=span, method="bounded", options={"xatol": 1e-10}
    )
    # At a bound of the range the interior point may be higher by a rounding error alone.
    height = float(heights[best])
    rounding = _ROUNDING * max(1.0, abs(height)) if math.isfinite(height) else 0.0
    if -found.fun > height + rounding:
        return float(found.x), float(-found.fun)
    return float(grid[best]), height


def _cross(excess: Callable[[float], float], start: float, end: float, beyond: float) -> float:
    """Return where a function that is negative at ``start`` crosses 0 on the way to ``end``, else ``beyond``."""
    from scipy.optimize import brentq

    if start == end or excess(end) <= 0:
        return beyond
    if excess(start) >= 0:
        return start
    return float(brentq(excess, start, end, xtol=1e-9))
