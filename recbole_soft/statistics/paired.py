"""Two methods on the same test windows: is the difference more than chance?

What is tested is the mean difference per window, with the trained models as they are. Several seeds are combined by
taking each window's mean over them first: the window, or its user, stays the unit. Pooling windows times seeds would
count every window several times and find differences that are none. Whether a difference would also hold for newly
trained models is another question, see `between_seeds`.

Windows of one user resemble each other. Where users are known, a user is the unit: all of his differences change
sign together, and the bootstrap draws whole users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from recbole_soft.statistics.metrics import bootstrap_interval, sums_by_group

FLIPS = 9999
ALL_SIGNS_UP_TO = 12  # units; beyond, signs are drawn
_ROUNDING = 1e-12
_CHUNK_BITS = 1 << 22


@dataclass(frozen=True)
class PairedTest:
    """A method against a baseline on the same windows.

    Attributes:
        difference: mean over windows, method minus baseline.
        low, high: its 95 % bootstrap interval.
        p_value: two-sided.
        test: which test it is from.
        effect: standardised difference (Cohen's d_z): mean over standard deviation of the windows' differences.
        wins, losses: windows in which the method is better, and worse.
        standard_error: of `difference`, by users where they are known.
    """

    difference: float
    low: float
    high: float
    p_value: float
    test: str
    effect: float
    wins: int
    losses: int
    standard_error: float


def paired_tests(differences: np.ndarray, is_hit: list[bool], groups: np.ndarray | None = None, *,
                 is_single_run: bool = False, seed: int = 0) -> list[PairedTest]:
    """Tests of several metrics at once.

    Args:
        differences: [n, m] method minus baseline per window and metric, each a mean over seeds.
        is_hit: [m] whether the metric is a hit rate.
        groups: [n] user of each window, if known.
        is_single_run: each side is one run, so that the differences of hits are -1, 0 or 1. Without groups they are
            then tested by McNemar (mid-p), otherwise by signs drawn at random.
    """
    p_values = sign_flip_p(differences, groups, seed=seed)
    lows, highs = bootstrap_interval(differences, seed, groups=groups)
    errors, unit = standard_error(differences, groups), "windows" if groups is None else "users"
    tests = []
    for column, of_metric in enumerate(differences.T):
        wins, losses = int((of_metric > 0).sum()), int((of_metric < 0).sum())
        p_value, name = float(p_values[column]), f"permutation over {unit}"
        if is_hit[column] and is_single_run and groups is None:
            p_value, name = mcnemar_p(wins, losses), "McNemar mid-p"
        tests.append(PairedTest(float(of_metric.mean()), float(lows[column]), float(highs[column]), p_value, name,
                                standardised(of_metric), wins, losses, float(errors[column])))
    return tests


def sign_flip_p(differences: np.ndarray, groups: np.ndarray | None = None, flips: int = FLIPS,
                seed: int = 0) -> np.ndarray:
    """Two-sided paired permutation test: under the null hypothesis the two methods could be exchanged in every unit.

    The same as `scipy.stats.permutation_test` with one sample and `permutation_type="samples"`, for many metrics at
    once and in bounded memory. All signs are tried where there are few units, else `flips` are drawn, and the
    observed one counts as one of them (Phipson and Smyth 2010), so that no p-value is 0.

    Args:
        differences: [n, m].
        groups: [n] user of each window; one sign per user.

    Returns:
        [m] p-values; 1 where there is no difference anywhere.
    """
    sums, _ = sums_by_group(np.asarray(differences, dtype=float), groups)
    sums = sums[np.any(sums != 0, axis=1)]
    observed = np.abs(sums.sum(0)) * (1 - 1e-9)  # equal sums in another order of adding are still equal
    if len(sums) <= ALL_SIGNS_UP_TO:
        bits = (np.arange(1 << len(sums))[:, None] >> np.arange(len(sums))) & 1
        return (np.abs((2.0 * bits - 1) @ sums) >= observed).mean(axis=0)
    random, ahead, left = np.random.default_rng(seed), np.zeros(sums.shape[1]), flips
    while left:
        rows = min(left, max(1, _CHUNK_BITS // len(sums)))
        packed = random.integers(0, 256, (rows, (len(sums) + 7) // 8), dtype=np.uint8)
        signs = np.unpackbits(packed, axis=1, count=len(sums)).astype(np.float64)
        ahead += (np.abs(2 * (signs @ sums) - sums.sum(0)) >= observed).sum(0)
        left -= rows
    return (ahead + 1) / (flips + 1)


def mcnemar_p(wins: int, losses: int, mid: bool = True) -> float:
    """McNemar's two-sided test of paired hits, exact or mid-p (Fagerland et al. 2013, who advise the latter)."""
    changed, fewer = wins + losses, min(wins, losses)
    if changed == 0:
        return 1.0
    if not mid:
        return float(stats.binomtest(fewer, changed).pvalue)
    at_most = stats.binom.cdf(fewer, changed, 0.5)
    return float(min(1.0, 2 * at_most - stats.binom.pmf(fewer, changed, 0.5)))


def between_seeds(method: np.ndarray, baseline: np.ndarray, is_chance: bool = False) -> float:
    """Welch's test over seeds: would newly trained models differ as well? Not-a-number with fewer than two seeds.

    Args:
        method, baseline: means over windows, one per seed.
        is_chance: whether the seed decides single windows, so that equal means of all seeds are a coincidence and tell
            no spread: not-a-number then, where both have them.
    """
    if len(method) < 2 or len(baseline) < 2:
        return float("nan")
    spreads = [float(np.std(means, ddof=1)) for means in (method, baseline)]
    difference = float(np.mean(method) - np.mean(baseline))
    if max(spreads) < _ROUNDING:  # neither depends on the seed, so a new training gives the same again
        return float("nan") if is_chance else float(abs(difference) < _ROUNDING)
    return float(stats.ttest_ind_from_stats(difference, spreads[0], len(method), 0.0, spreads[1], len(baseline),
                                            equal_var=False).pvalue)


def standardised(differences: np.ndarray) -> float:
    """Cohen's d_z of [n] paired differences; 0 where all are equal to 0."""
    spread = differences.std(ddof=1) if len(differences) > 1 else 0.0
    return float(differences.mean() / spread) if spread > 0 else 0.0


def standard_error(differences: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """[m] standard errors of the mean differences [n, m], of windows or of users (sums of residuals by user)."""
    residuals = differences - differences.mean(0)
    sums, counts = sums_by_group(residuals, groups)
    units = len(counts)
    correction = units / (units - 1) if units > 1 else np.nan
    return np.sqrt(correction * (sums**2).sum(0)) / len(differences)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's correction of a family of p-values; not-a-number is no member and stays."""
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, np.nan)
    members = np.flatnonzero(~np.isnan(p_values))
    order = members[np.argsort(p_values[members], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return adjusted


def detectable_difference(error: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean difference that a two-sided test with this standard error finds with this power."""
    return float((stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) * error)


def windows_needed(error: float, windows: int, difference: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """How many test windows a two-sided test needs to find a true mean difference with this power.

    Args:
        error: standard error of the mean difference on `windows` windows; if it was taken over users, the result
            is for windows spread over users in the same way.
        difference: the difference to be found; 0 gives infinity.
    """
    if difference == 0:
        return float("inf")
    return float(np.ceil(windows * (detectable_difference(error, alpha, power) / difference) ** 2))
