#!/usr/bin/env python3
"""Whether each distortion lowers the mean score of photographs the more the stronger it is.

    pcqa-train synth --photographs PHOTOS --out LADDER
    pcqa-train evaluate --data LADDER --predict-to PREDICTIONS.csv
    deploy/demo/monotone.py LADDER/info.csv PREDICTIONS.csv

Prints a Markdown table and exits with 1 when a mean score rises where it should fall.
"""

import csv
import sys
from collections import defaultdict


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], newline="") as file:
        steps = {row["path"]: row["distortions"] for row in csv.DictReader(file)}
    scores = defaultdict(lambda: defaultdict(list))
    with open(sys.argv[2], newline="") as file:
        for row in csv.DictReader(file):
            distortion, _, strength = steps[row["name"]].partition(" ")
            scores[distortion][strength or "0"].append(float(row["score"]))
    whole = mean(scores.pop("")["0"])
    rising = []
    print("| distortion | 0 | 0.2 | 0.4 | 0.6 | 0.8 | 1 | falls |\n|---|---|---|---|---|---|---|---|")
    for distortion, by_strength in sorted(scores.items()):
        means = [whole] + [mean(by_strength[strength]) for strength in sorted(by_strength)]
        falls = all(after < before for before, after in zip(means, means[1:]))
        if not falls:
            rising.append(distortion)
        cells = " | ".join(f"{value:.2f}" for value in means)
        print(f"| {distortion} | {cells} | {'yes' if falls else 'no'} |")
    if rising:
        sys.exit(f"monotone: the mean score rises somewhere under {', '.join(rising)}")


def mean(values):
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
