"""Writes statistics.json: correlations and logistic fits of SciPy 1.17 for tests/train/statistics.rs.

    python tests/golden/train/make_statistics.py
"""

import json
import pathlib

import numpy as np
from scipy.optimize import curve_fit
from scipy.stats import kendalltau, pearsonr, spearmanr


def logistic(x, high, low, centre, width):
    return low + (high - low) / (1 + np.exp(-(x - centre) / abs(width)))


def cases():
    rng = np.random.default_rng(7)
    x = rng.normal(size=200)
    yield "linear", x, 2.9 + 0.7 * x + rng.normal(scale=0.3, size=200)
    yield "curved", x, logistic(x, 5, 1, 0.3, 0.4) + rng.normal(scale=0.2, size=200)
    yield "falling", 100 * x + 1000, logistic(-x, 90, 10, 0.3, 0.5) + rng.normal(scale=5, size=200)
    yield "tied", np.round(x), np.round(2 * (x + rng.normal(scale=0.8, size=200))) / 2
    yield "unrelated", x, rng.uniform(1, 5, size=200)
    yield "few", np.array([3.0, 1, 4, 1, 5]), np.array([9.0, 2, 6, 5, 3])


def main():
    written = []
    for name, x, y in cases():
        x, y = np.round(x, 6), np.round(y, 6)
        case = {
            "name": name,
            "x": x.tolist(),
            "y": y.tolist(),
            "srcc": spearmanr(x, y).statistic,
            "plcc": pearsonr(x, y).statistic,
            "krcc": kendalltau(x, y).statistic,
            "rmse": float(np.sqrt(np.mean((x - y) ** 2))),
        }
        # The others have no curve of their own: any that is steep or flat enough fits them.
        if name in ("curved", "falling"):
            high, low = (y.min(), y.max()) if case["plcc"] < 0 else (y.max(), y.min())
            fit, _ = curve_fit(logistic, x, y, p0=[high, low, x.mean(), x.std()], ftol=1e-14, xtol=1e-14, maxfev=10000)
            mapped = logistic(x, *fit)
            case["logistic"] = fit.tolist()
            case["plcc_fitted"] = pearsonr(mapped, y).statistic
            case["rmse_fitted"] = float(np.sqrt(np.mean((mapped - y) ** 2)))
        written.append(case)
    path = pathlib.Path(__file__).with_name("statistics.json")
    path.write_text(json.dumps(written) + "\n")


main()
