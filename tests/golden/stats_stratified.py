"""Shares and kappa from stratified samples of labels, for src/bench/statistics/{beta,stratified}.rs.

Limits of a stratum come from scipy, kappa from scikit-learn with weights, and the intervals are put together here from
the formula of Zou, Huang & Zhang (2009), apart from our code: for a share in closed form, for kappa by asking
scikit-learn again with one stratum's share at its limit.

    pip install numpy scipy scikit-learn statsmodels && python stats_stratified.py > stats_stratified.json
"""

import json

import numpy as np
from scipy.stats import beta, norm
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

Z = norm.ppf(0.975)
SHARES = [(0, 1), (1, 1), (0, 15), (15, 15), (0.5, 15), (7, 15), (1, 50), (49.5, 50), (3, 400), (200, 400), (0, 400), (2.5, 1000)]
# Judged unsafe, units, labels, unsafe labels.
SAMPLES = [
    [(True, 120, 30, 18), (False, 880, 30, 0)],
    [(True, 20, 20, 20), (False, 980, 40, 1)],
    [(True, 90, 15, 9), (True, 30, 15, 12), (False, 800, 15, 1), (False, 80, 15, 4)],
    [(True, 90, 15, 9.5), (True, 30, 15, 12), (False, 14000, 15, 0.5), (False, 800, 15, 0)],
    [(True, 400, 100, 90), (False, 600, 100, 20)],
    [(True, 10, 10, 7), (False, 50, 50, 3)],
    [(True, 7, 7, 0), (False, 93, 23, 0)],
]


def jeffreys(x, n):
    low = 0.0 if x == 0 else beta.ppf(0.025, x + 0.5, n - x + 0.5)
    high = 1.0 if x == n else beta.ppf(0.975, x + 0.5, n - x + 0.5)
    return float(min(low, x / n)), float(max(high, x / n))


def share(sample, independent):
    units = sum(size for _, size, _, _ in sample)
    p = sum(size / units * x / n for _, size, n, x in sample)
    below = above = 0.0
    for _, size, n, x in sample:
        low, high = jeffreys(x, n)
        below += (1 - n / size) * (size / units * (x / n - low)) ** 2
        above += (1 - n / size) * (size / units * (high - x / n)) ** 2
    low, high = proportion_confint(p * independent, independent, method="wilson")
    return p, max(0.0, p - np.sqrt(below + (p - low) ** 2)), min(1.0, p + np.sqrt(above + (high - p) ** 2))


def weights(sample, shares):
    """(label, verdict, weight) for each stratum and label."""
    rows = []
    for (judged, size, _, _), p in zip(sample, shares):
        rows += [(True, judged, size * p), (False, judged, size * (1 - p))]
    return np.array(rows, dtype=float).T


def kappa_at(sample, shares):
    label, verdict, weight = weights(sample, shares)
    return cohen_kappa_score(label > 0, verdict > 0, sample_weight=weight)


def kappa(sample, independent):
    shares = [x / n for _, _, n, x in sample]
    value, below, above = kappa_at(sample, shares), 0.0, 0.0
    if np.isnan(value):
        return None
    for place, (_, size, n, x) in enumerate(sample):
        for limit in jeffreys(x, n):
            change = kappa_at(sample, shares[:place] + [limit] + shares[place + 1 :]) - value
            if change < 0:
                below += (1 - n / size) * change**2
            elif change > 0:
                above += (1 - n / size) * change**2
    label, verdict, weight = weights(sample, shares)
    table = np.array([[weight[(label == a) & (verdict == b)].sum() for b in (1, 0)] for a in (1, 0)])
    result = cohens_kappa(table)
    assert abs(result.kappa - value) < 1e-9
    units = Z**2 * result.var_kappa * table.sum() / independent
    return value, max(-1.0, value - np.sqrt(below + units)), min(1.0, value + np.sqrt(above + units))


def main():
    limits = [{"successes": x, "trials": n, "low": jeffreys(x, n)[0], "high": jeffreys(x, n)[1]} for x, n in SHARES]
    for n in (4, 11, 60):
        for x in np.linspace(0, n, 9):
            low, high = jeffreys(float(x), n)
            limits.append({"successes": float(x), "trials": n, "low": low, "high": high})
    samples = []
    for sample in SAMPLES:
        units = sum(size for _, size, _, _ in sample)
        for independent in (units, units / 4):
            strata = [{"judged_unsafe": j, "size": s, "labels": n, "unsafe_labels": x} for j, s, n, x in sample]
            row = {"strata": strata, "independent": independent, "share": [float(v) for v in share(sample, independent)]}
            found = kappa(sample, independent)
            row["kappa"] = found and [float(v) for v in found]
            samples.append(row)
    print(json.dumps({"jeffreys": limits, "samples": samples}, indent=1))


if __name__ == "__main__":
    main()
