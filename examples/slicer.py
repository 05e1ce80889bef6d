"""Contours a scan and opens it with its contours in 3D Slicer.

    python examples/slicer.py SCAN OUT [BUNDLE]

Without Slicer on this machine the two files are written all the same: drag both into its window.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import SimpleITK

import limn


def main(source: str, out: str, bundle: str = "phantom-7") -> None:
    """Write the scan as NRRD and the organs as a segmentation, and start Slicer with them."""
    image = Path(out, "scan.nrrd")
    limn.contour(source, bundle).save(out, ["nrrd"])
    SimpleITK.WriteImage(limn.read(source).image, str(image), useCompression=True)
    segmentation = Path(out, "labels.seg.nrrd")
    print(image, segmentation, sep="\n")
    if slicer := shutil.which("Slicer"):
        subprocess.run([slicer, str(image), str(segmentation)], check=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
