"""The Rogan-Gladen estimate with the interval of Lang & Reiczigel (2014), for src/bench/statistics/correction.rs.

Written from the paper's equations; the script first checks by simulation that the interval covers a planted truth.

    pip install numpy scipy && python stats_correction.py > stats_correction.json
"""

import json

import numpy as np
from scipy.stats import norm

Z = norm.ppf(0.975)
CASES = [
    (120, 1000, 0.9, 60, 0.95, 80), (0, 100, 0.8, 20, 0.9, 30), (100, 100, 0.8, 20, 0.9, 30), (5, 328, 0.85, 12, 0.97, 40),
    (300, 14763, 0.877, 55, 0.968, 130), (3000, 14763, 0.6, 100, 0.99, 100), (1, 10, 1.0, 5, 1.0, 5),
    (50, 100, 0.7, 15.5, 0.8, 22.25), (500, 1000, 0.55, 200, 0.6, 200), (12, 251, 0.95, 30, 0.5, 30),
    (230, 1166, 0.94, 18, 0.96, 21),
]


def interval(k, n, se, n_se, sp, n_sp):
    estimate = (k / n + sp - 1) / (se + sp - 1)
    ap, n_ap = (k + Z**2 / 2) / (n + Z**2), n + Z**2
    se, n_se = (n_se * se + 1) / (n_se + 2), n_se + 2
    sp, n_sp = (n_sp * sp + 1) / (n_sp + 2), n_sp + 2
    j = se + sp - 1
    p = (ap + sp - 1) / j
    dp = 2 * Z**2 * (p * se * (1 - se) / n_se - (1 - p) * sp * (1 - sp) / n_sp)
    var = (ap * (1 - ap) / n_ap + p**2 * se * (1 - se) / n_se + (1 - p) ** 2 * sp * (1 - sp) / n_sp) / j**2
    ends = p + dp - Z * np.sqrt(var), p + dp + Z * np.sqrt(var)
    return [float(np.clip(value, 0, 1)) for value in (estimate, *ends)]


def covers(runs=20000, truth=0.1, se=0.85, sp=0.95, n=1000, labels=60):
    random = np.random.default_rng(1)
    seen = random.binomial(n, truth * se + (1 - truth) * (1 - sp), runs)
    found_se = random.binomial(labels, se, runs) / labels
    found_sp = random.binomial(labels, sp, runs) / labels
    held = [l <= truth <= h for _, l, h in (interval(k, n, a, labels, b, labels) for k, a, b in zip(seen, found_se, found_sp))]
    return np.mean(held)


def main():
    assert 0.94 < covers() < 0.98, covers()
    rows = []
    for k, n, se, n_se, sp, n_sp in CASES:
        estimate, low, high = interval(k, n, se, n_se, sp, n_sp)
        accuracy = {"sensitivity": se, "unsafe_labels": n_se, "specificity": sp, "safe_labels": n_sp}
        rows.append({"judged_unsafe": k, "judged": n, "accuracy": accuracy, "estimate": estimate, "low": low, "high": high})
    print("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")


if __name__ == "__main__":
    main()
