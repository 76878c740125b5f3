"""Cochran's Q and two-way mean squares from statsmodels, for src/bench/statistics/crossed.rs. The p-values of small
tables are those of all rearrangements, counted here; those of large ones are statsmodels' chi-square ones.

    pip install statsmodels pandas && python stats_crossed.py > stats_crossed.json
"""

import itertools
import json

import numpy as np
import pandas as pd
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.contingency_tables import cochrans_q


def statistic(x):
    k = x.shape[1]
    c, r = x.sum(axis=0), x.sum(axis=1)
    return (k - 1) * (k * (c**2).sum() - c.sum() ** 2) / (k * c.sum() - (r**2).sum())


def exact(x, q):
    """Of the places that each row's ones could stand at."""
    k = x.shape[1]
    choices = [list(itertools.combinations(range(k), int(row.sum()))) for row in x if 0 < row.sum() < k]
    hits = total = 0
    base = x[(x.sum(axis=1) == 0) | (x.sum(axis=1) == k)].sum(axis=0)
    spread = k * x.sum() - (x.sum(axis=1) ** 2).sum()
    for places in itertools.product(*choices):
        c = base.copy()
        for place in places:
            c[list(place)] += 1
        total += 1
        hits += (k - 1) * (k * (c**2).sum() - c.sum() ** 2) / spread >= q - 1e-9
    return hits / total


def main():
    random = np.random.default_rng(11)
    tables = []
    for n, chances in [(9, (0.8, 0.4, 0.6)), (8, (0.9, 0.5, 0.5, 0.3)), (10, (0.7, 0.7, 0.7))]:
        x = (random.random((n, len(chances))) < np.array(chances)).astype(int)
        q = float(cochrans_q(x).statistic)
        assert abs(q - statistic(x)) < 1e-9
        tables.append({"rows": x.tolist(), "q": q, "p": exact(x, q), "exact": True})
    for n, chances in [(300, (0.8, 0.75, 0.82)), (400, (0.9, 0.88, 0.91, 0.9, 0.92))]:
        x = (random.random((n, len(chances))) < np.array(chances)).astype(int)
        result = cochrans_q(x)
        tables.append({"rows": x.tolist(), "q": float(result.statistic), "p": float(result.pvalue), "exact": False})
    shares = []
    for n, k in [(12, 3), (40, 4), (5, 2)]:
        x = np.round(random.random((n, 1)) * 0.5 + random.random((1, k)) * 0.2 + random.random((n, k)) * 0.3, 3)
        frame = pd.DataFrame([(i, j, x[i, j]) for i in range(n) for j in range(k)], columns=["unit", "treatment", "y"])
        table = anova_lm(ols("y ~ C(unit) + C(treatment)", frame).fit())
        square = (table["sum_sq"] / table["df"]).to_dict()
        rest = square["Residual"]
        shares.append(
            {
                "rows": x.tolist(),
                "units": (square["C(unit)"] - rest) / k,
                "treatments": (square["C(treatment)"] - rest) / n,
                "rest": rest,
            }
        )
    print(json.dumps({"tables": tables, "shares": shares}))


if __name__ == "__main__":
    main()
