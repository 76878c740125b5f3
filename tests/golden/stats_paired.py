"""McNemar's test and Holm's adjustment from statsmodels and scipy, for src/bench/statistics/paired.rs.

    pip install statsmodels scipy && python stats_paired.py > stats_paired.json
"""

import json

import numpy as np
from scipy.stats import binom
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

PAIRS = [(b, c) for b in (0, 1, 2, 5, 12, 31, 32, 33) for c in (0, 1, 3, 12, 40)]
PAIRS += [(250, 300), (1000, 1000), (1000, 1100), (5000, 4700), (12, 900)]


def main():
    rows = []
    for b, c in PAIRS:
        if b + c == 0:
            continue
        exact = float(mcnemar([[10, b], [c, 10]], exact=True).pvalue)
        k, n = min(b, c), b + c
        mid = float(2 * binom.cdf(k, n, 0.5) - binom.pmf(k, n, 0.5))
        rows.append({"first_only": b, "second_only": c, "exact_p": exact, "mid_p": min(mid, 1.0)})
    random = np.random.default_rng(5)
    holm = []
    for size in (1, 2, 5, 10, 32):
        p = np.round(random.random(size) ** 3, 4)
        holm.append({"p": p.tolist(), "adjusted": multipletests(p, method="holm")[1].tolist()})
    print(json.dumps({"mcnemar": rows, "holm": holm}, indent=1))


if __name__ == "__main__":
    main()
