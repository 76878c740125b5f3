"""Wilson intervals from statsmodels, for src/bench/statistics/proportion.rs.

    pip install statsmodels && python stats_wilson.py > stats_wilson.json
"""

import json

from statsmodels.stats.proportion import proportion_confint

CASES = [(k, n) for n in (1, 2, 3, 5, 10, 32, 64) for k in sorted({0, 1, n // 2, n - 1, n})]
CASES += [(k, n) for n in (150, 1037, 14763, 75000) for k in sorted({0, 1, n // 3, n // 2, 99 * n // 100, n - 1, n})]


def main():
    rows = []
    for successes, trials in CASES:
        low, high = proportion_confint(successes, trials, alpha=0.05, method="wilson")
        rows.append({"successes": successes, "trials": trials, "low": float(low), "high": float(high)})
    print("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")


if __name__ == "__main__":
    main()
