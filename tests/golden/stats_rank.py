"""Rank correlations from scipy, for src/bench/statistics/rank.rs.

    pip install numpy scipy && python stats_rank.py > stats_rank.json
"""

import json
from math import atanh, sqrt, tanh

import numpy as np
from scipy import stats


def partial(x, y, groups):
    """Correlation of ranks after a least-squares fit on the groups; groups of one fit exactly and are left out."""
    groups = np.array(groups)
    keep = np.array([np.sum(groups == g) > 1 for g in groups])
    x, y, groups = np.array(x)[keep], np.array(y)[keep], groups[keep]
    design = (groups[:, None] == np.unique(groups)[None, :]).astype(float)
    left = []
    for values in (x, y):
        ranks = stats.rankdata(values)
        left.append(ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0])
    return float(stats.pearsonr(*left).statistic)


def main():
    random = np.random.default_rng(11)
    rows = []
    for n, strength in ((8, 0.0), (13, 1.0), (13, -0.5), (20, 0.4), (40, 0.2), (40, 2.0)):
        x = np.round(random.choice([0.5, 1.5, 3, 7, 8, 9, 14, 27, 32, 70], n), 1)
        y = np.round(60 + strength * 3 * np.log(x) + random.normal(0, 4, n), 1)
        groups = random.integers(0, max(2, n // 5), n)
        rho = stats.spearmanr(x, y).statistic
        test = stats.permutation_test(
            (y,), lambda y: stats.spearmanr(x, y).statistic, permutation_type="pairings", n_resamples=4999, rng=2
        )
        half = stats.norm.ppf(0.975) * sqrt((1 + rho**2 / 2) / (n - 3))
        row = {"x": x.tolist(), "y": y.tolist(), "groups": groups.tolist(), "spearman": float(rho)}
        row["kendall"] = float(stats.kendalltau(x, y).statistic)
        row["p"] = float(test.pvalue)
        row["low"], row["high"] = tanh(atanh(rho) - half), tanh(atanh(rho) + half)
        row["partial"] = partial(x, y, groups)
        rows.append(row)
    print("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")


if __name__ == "__main__":
    main()
