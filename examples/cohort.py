"""Contours every scan of a folder on one warm model; writes a table and a plot of the volumes.

    python examples/cohort.py FOLDER OUT [BUNDLE]

Each entry of FOLDER is a scan. One that can't be contoured is named, and the others go on.
"""

import csv
import sys
from pathlib import Path

import matplotlib.pyplot as plt

import limn


def main(folder: str, out: str, bundle: str = "phantom-7") -> None:
    """Contour, tabulate, plot."""
    model, rows = limn.Model(bundle), []
    Path(out).mkdir(parents=True, exist_ok=True)
    for scan in sorted(Path(folder).iterdir()):
        try:
            found = model.contour(scan)
        except limn.LimnError as error:
            print(f"{scan.name}: {error}")
            continue
        volumes = {roi.name: round(roi.volume_mm3, 1) for roi in found.rois.values()}
        rows.append({"scan": scan.name, "light": found.light, **volumes})
        print(rows[-1])
    with Path(out, "volumes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["scan", "light", *model.organs], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    figure, axes = plt.subplots()
    axes.boxplot([[row[organ] for row in rows] for organ in model.organs])
    axes.set_xticks(range(1, 1 + len(model.organs)), model.organs)
    axes.set_ylabel("mm3")
    figure.savefig(Path(out, "volumes.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
