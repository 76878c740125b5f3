"""Cohen's kappa from statsmodels and binary scores from scikit-learn, for src/bench/statistics/agreement.rs.

    pip install statsmodels scikit-learn && python stats_agreement.py > stats_agreement.json
"""

import json

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from statsmodels.stats.inter_rater import cohens_kappa


def kappa(table):
    result = cohens_kappa(table)
    return {"table": table.tolist(), "kappa": float(result.kappa), "standard_error": float(result.std_kappa)}


def main():
    random = np.random.default_rng(3)
    two = [kappa(random.integers(1, 60, (2, 2))) for _ in range(10)]
    two += [kappa(np.array(t)) for t in ([[14000, 90], [120, 553]], [[0, 5], [5, 0]], [[30, 0], [0, 2]])]
    three = [kappa(random.integers(0, 40, (3, 3)) + 50 * np.eye(3, dtype=int)) for _ in range(8)]
    binary = []
    for counts in ([30, 5, 7, 90], [0, 3, 4, 60], [12, 0, 0, 40], [5, 0, 9, 0], [561, 44, 83, 14075]):
        tp, fp, fn, tn = counts
        labels = [1] * tp + [0] * fp + [1] * fn + [0] * tn
        judged = [1] * tp + [1] * fp + [0] * fn + [0] * tn
        row = {"counts": counts, "accuracy": accuracy_score(labels, judged)}
        row["precision"] = precision_score(labels, judged, zero_division=0)
        row["recall"] = recall_score(labels, judged, zero_division=0)
        row["f1"] = f1_score(labels, judged, zero_division=0)
        binary.append({key: value if key == "counts" else float(value) for key, value in row.items()})
    print(json.dumps({"kappa2": two, "kappa3": three, "binary": binary}, indent=1))


if __name__ == "__main__":
    main()
