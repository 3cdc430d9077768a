#!/usr/bin/env python3
"""Whether each distortion lowers the mean score of photographs the more the stronger it is.

    pcqa-train synth --photographs PHOTOS --out LADDER
    pcqa-train evaluate --data LADDER --predict-to PREDICTIONS.csv
    deploy/demo/monotone.py LADDER/info.csv PREDICTIONS.csv

Prints a Markdown table: mean scores by strength, and from whole to strongest the fall with a 95 % interval from
resampling photographs. Exits with 1 when a mean score rises where it should fall.
"""

import csv
import random
import sys
from collections import defaultdict

RESAMPLES = 2000


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], newline="") as file:
        items = {row["path"]: row for row in csv.DictReader(file)}
    # distortion -> strength -> photograph -> score
    scores = defaultdict(lambda: defaultdict(dict))
    with open(sys.argv[2], newline="") as file:
        for row in csv.DictReader(file):
            item = items[row["name"]]
            distortion, _, strength = item["distortions"].partition(" ")
            scores[distortion][strength or "0"][item["group"]] = float(row["score"])
    whole = scores.pop("")["0"]
    steps = sorted({strength for by_strength in scores.values() for strength in by_strength})
    titles = ["distortion", "0", *(f"{float(step):g}" for step in steps), "fall [95 %]", "monotone"]
    print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))
    rising = []
    for distortion, by_strength in sorted(scores.items()):
        ladder = [whole, *(by_strength[step] for step in steps)]
        means = [mean(list(step.values())) for step in ladder]
        monotone = all(after < before for before, after in zip(means, means[1:]))
        if not monotone:
            rising.append(distortion)
        falls = [whole[name] - ladder[-1][name] for name in sorted(whole)]
        low, high = interval(falls)
        cells = [distortion, *(f"{value:.2f}" for value in means)]
        cells += [f"{mean(falls):.2f} [{low:.2f}, {high:.2f}]", "yes" if monotone else "no"]
        print("| " + " | ".join(cells) + " |")
    if rising:
        sys.exit(f"monotone: the mean score rises somewhere under {', '.join(rising)}")


def mean(values):
    return sum(values) / len(values)


def interval(values):
    """Percentiles of the mean over resampled values."""
    by = random.Random(0)
    means = sorted(mean(by.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]


if __name__ == "__main__":
    main()
