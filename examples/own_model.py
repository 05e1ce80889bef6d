"""Compares two models on the same scans: how far their contours agree, organ by organ.

    python examples/own_model.py SCAN ... -- MODEL OTHER_MODEL

A model is a bundle's folder or name, as `limn models list` shows it; `limn models import` makes one
of your own training of nnU-Net.
"""

import sys

import numpy as np

import limn


def dice(mask: np.ndarray, other: np.ndarray) -> float:
    """Overlap: 1 for the same voxels, 0 for none in common."""
    return float(2.0 * (mask & other).sum() / max(1, mask.sum() + other.sum()))


def main(scans: list[str], bundle: str, other_bundle: str) -> None:
    """Contour each scan with both, print the overlap of the organs that both know."""
    models = [limn.Model(bundle), limn.Model(other_bundle)]
    organs = [organ for organ in models[0].organs if organ in models[1].organs]
    print(f"{'scan':20} {'  '.join(f'{organ:>12}' for organ in organs)}")
    for scan in scans:
        found = [model.contour(scan) for model in models]
        masks = []
        for contours in found:
            labels = {name: label for label, name in contours.names.items()}
            masks.append([contours.labels_zyx == labels[organ] for organ in organs])
        overlaps = [dice(mask, other) for mask, other in zip(*masks, strict=True)]
        print(f"{scan[-20:]:20} {'  '.join(f'{overlap:12.3f}' for overlap in overlaps)}")


if __name__ == "__main__":
    at = sys.argv.index("--")
    main(sys.argv[1:at], *sys.argv[at + 1 :])
