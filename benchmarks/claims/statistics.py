"""Paired differences with confidence intervals, over the people that are tested on and over training seeds."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """A mean difference and its confidence interval, in the unit of the differences.

    Attributes:
        mean: Mean over people and seeds.
        low, high: Ends of the interval.
        over_seeds: Standard error from the scatter between training seeds; None with a single seed.
        over_people: Standard error from the scatter between people.
        freedom: Degrees of freedom of the t quantile.
        people: How many people count.
        seeds: How many trainings.
    """

    mean: float
    low: float
    high: float
    over_seeds: float | None
    over_people: float
    freedom: float
    people: int
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the difference is one."""
        return self.low > 0 or self.high < 0


def paired_interval(differences: NDArray[Any], level: float = 0.95) -> Interval:
    """Mean of paired differences with an interval that holds for other people *and* other seeds.

    The same people are tested under every seed, so d[s, i] = mean + a[s] + b[i] + e[s, i], both factors random. The
    variance of the grand mean is at most Var(seed means) / S + Var(person means) / N: each term holds its own factor
    once and the residual's share, which is counted twice. Degrees of freedom by Satterthwaite. (Clark's quasi-F for
    crossed random effects, as a t interval.) With a single seed nothing is known about the first term.

    Args:
        differences: [S, N]; people with a NaN under any seed are left out.
        level: Of confidence.

    Raises:
        ValueError: Fewer than two people are left.
    """
    kept = differences[:, np.isfinite(differences).all(0)].astype(float)
    seeds, people = kept.shape
    if people < 2:
        raise ValueError(f"an interval needs at least two people with a value, got {people}")
    of_people = float(kept.mean(0).var(ddof=1)) / people
    of_seeds = float(kept.mean(1).var(ddof=1)) / seeds if seeds > 1 else 0.0
    variance = of_people + of_seeds
    spread = of_people**2 / (people - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    freedom = variance**2 / spread if spread > 0 else float(people - 1)
    half = student_quantile(0.5 + level / 2, freedom) * math.sqrt(variance)
    mean = float(kept.mean())
    between = math.sqrt(of_seeds) if seeds > 1 else None
    return Interval(mean, mean - half, mean + half, between, math.sqrt(of_people), freedom, people, seeds)


def student_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t for 0.5 <= probability < 1 and any positive degrees of freedom."""
    if not 0.5 <= probability < 1 or freedom <= 0:
        raise ValueError(f"no quantile for probability {probability} and {freedom} degrees of freedom")
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def student_cdf(value: float, freedom: float, steps: int = 400) -> float:
    """P(T <= value) for value >= 0: the density in theta = atan(t / sqrt(nu)), which is a power of a cosine."""
    end = math.atan(value / math.sqrt(freedom))
    theta = np.linspace(0.0, end, 2 * steps + 1)
    density = np.cos(theta) ** (freedom - 1)
    weights = np.r_[1, np.tile([4, 2], steps - 1), 4, 1]  # Simpson
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(math.pi)
    return 0.5 + math.exp(log_scale) * float(weights @ density) * end / (6 * steps)
