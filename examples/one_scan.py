"""Contours one scan and says what came of it.

    python examples/one_scan.py SCAN OUT [BUNDLE]

SCAN is a folder or zip of DICOM, or a NIfTI, NRRD or MetaImage file.
"""

import sys

import limn


def main(source: str, out: str, bundle: str = "phantom-7") -> None:
    """Contour, print, save."""
    found = limn.contour(source, bundle)
    print(f"animal {found.animal}: {found.light}; {' '.join(found.flags)}")
    for roi in found.rois.values():
        print(f"{roi.name:12} {roi.volume_mm3:8.1f} mm3  {roi.light}")
    for concern in found.concerns:
        print(f"  {concern}")
    for path in found.save(out, ["rtstruct", "nifti", "csv"]):
        print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
