"""Isotonic and Platt calibration from scikit-learn, for src/calibrator/.

    pip install numpy scikit-learn && python calibrators.py > calibrators.json
"""

import json

import numpy as np
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression


def main():
    random = np.random.default_rng(11)
    rows = []
    for n, power, digits in ((30, 1.0, 2), (200, 2.0, 6), (600, 0.5, 2)):
        # Few digits make ties.
        scores = np.round(random.beta(0.5, 0.5, n) * 0.98 + 0.01, digits)
        labels = (random.random(n) < scores**power).astype(int)
        weights = np.round(random.uniform(0.5, 8.0, n), 3)
        # As our fit scales them: so that they add up to the number of labels.
        weights = weights * (n / weights.sum())
        at = np.round(np.linspace(0.0, 1.0, 41), 3)
        isotonic = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, labels, weights)
        log_odds = np.log(scores / (1 - scores))
        sigmoid = _SigmoidCalibration().fit(log_odds, labels, weights)
        row = {"scores": scores.tolist(), "labels": labels.tolist(), "weights": weights.tolist(), "at": at.tolist()}
        row["isotonic"] = isotonic.predict(at).tolist()
        # Theirs is 1 / (1 + exp(a * f + b)).
        row["slope"], row["intercept"] = -float(sigmoid.a_), -float(sigmoid.b_)
        rows.append(row)
    print("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")


if __name__ == "__main__":
    main()
