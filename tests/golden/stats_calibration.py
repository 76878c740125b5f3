"""Brier score and reliability from scikit-learn, for src/bench/statistics/calibration.rs.

    pip install numpy scikit-learn && python stats_calibration.py > stats_calibration.json
"""

import json

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss


def main():
    random = np.random.default_rng(7)
    rows = []
    for n, power in ((40, 1.0), (200, 2.0), (500, 0.5)):
        # Four digits, and off the bins' edges, where the two sides would choose different bins.
        scores = np.round(random.beta(0.5, 0.5, n) * 0.9998 + 0.0001, 4) + 0.00005
        labels = (random.random(n) < scores**power).astype(int)
        shares, means = calibration_curve(labels, scores, n_bins=10)
        counts = np.histogram(scores, bins=np.linspace(0, 1, 11))[0]
        error = np.sum(counts[counts > 0] * np.abs(shares - means)) / n
        row = {"scores": scores.tolist(), "labels": labels.tolist(), "brier": float(brier_score_loss(labels, scores))}
        row["expected_calibration_error"] = float(error)
        row["mean_scores"], row["unsafe_shares"] = means.tolist(), shares.tolist()
        rows.append(row)
    print("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")


if __name__ == "__main__":
    main()
