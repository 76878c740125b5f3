"""Differences of proportions from statsmodels, for src/bench/statistics/proportion.rs.

The paired interval follows Newcombe (1998, Statistics in Medicine 17:2635), method 10, written down here on its own.

    pip install statsmodels && python stats_proportion.py > stats_proportion.json
"""

import json
from math import sqrt

from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint, proportion_effectsize

INDEPENDENT = [
    ((56, 70), (48, 80)), ((9, 10), (3, 10)), ((10, 10), (0, 20)), ((990, 1000), (950, 1000)), ((1, 328), (32, 328)),
    ((0, 15), (0, 15)), ((700, 1037), (571, 1037)),
]
# Newcombe's own examples come first: (e, f, g, h) of 36, 12, 2, 0 and others of his Table III.
PAIRED = [(36, 12, 2, 0), (0, 36, 12, 2), (36, 12, 0, 2), (2, 12, 0, 36), (53, 1, 0, 0), (0, 54, 0, 0), (30, 24, 0, 0),
          (14200, 300, 120, 143), (500, 20, 20, 500), (10, 40, 35, 15)]


def paired(e, f, g, h):
    n = e + f + g + h
    p1, p2 = (e + f) / n, (e + g) / n
    l1, u1 = proportion_confint(e + f, n, method="wilson")
    l2, u2 = proportion_confint(e + g, n, method="wilson")
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    if margins == 0:
        phi = 0.0
    else:
        cross = e * h - f * g
        if cross > 0:
            cross = max(cross - n / 2, 0)
        phi = cross / sqrt(margins)
    low = p1 - p2 - sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    high = p1 - p2 + sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    return low, high


def main():
    independent = []
    for (a, m), (b, n) in INDEPENDENT:
        low, high = confint_proportions_2indep(a, m, b, n, method="newcomb", compare="diff")
        row = {"first": [a, m], "second": [b, n], "low": float(low), "high": float(high)}
        row["cohens_h"] = float(proportion_effectsize(a / m, b / n))
        independent.append(row)
    rows = []
    for e, f, g, h in PAIRED:
        low, high = paired(e, f, g, h)
        rows.append({"both": e, "first_only": f, "second_only": g, "neither": h, "low": float(low), "high": float(high)})
    print(json.dumps({"independent": independent, "paired": rows}, indent=1))


if __name__ == "__main__":
    main()
