"""A single-frame CT series as one Enhanced CT multi-frame instance, for tests."""

from pathlib import Path

import pydicom

from limn.dicom.ct import multi_frame


def enhance(paths: list[Path], out: Path, *, shared_rescale: bool = True) -> Path:
    """Frames in the order of the files; compressed frames stay as they are."""
    ds = multi_frame([pydicom.dcmread(path) for path in paths], shared_rescale=shared_rescale)
    out.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(out, enforce_file_format=True)
    return out
