"""What limn takes against what a user would pick instead, both in one run: ``make bench``.

Absolute times are this machine's; read the ratios.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from engine import bench_engine, bench_whole_body
from overhead import bench_overhead
from paper_network import bench_paper, bench_paper_field
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless
from receive import bench_receive

from limn.demo import demo
from limn.dicom import rtstruct
from limn.dicom.ct import CtIdentity, ct_instances
from limn.dicom.series import assemble
from limn.dicom.volume import read_headers
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Volume
from limn.node.store.disk import scanlog
from limn.phantom.anatomy import TRUTH_LABELS, conceive
from limn.phantom.scanner import Scanner, scan
from limn.segment.draw.trace import trace

WHAT = ["rtstruct", "engine", "paper", "body", "node", "receive", "overhead"]
SHAPE = (400, 512, 512)
SPACING = SpacingMm(0.14, 0.14, 0.14)
STYLE = rtstruct.Style.of_organs(TRUTH_LABELS.values(), "mouse")
IDENTITY = rtstruct.Identity("2.25.1", "2.25.2", "20260101", "120000", "bench", "0", "bench")


def best(times: int, action: Callable[[], Any]) -> tuple[float, Any]:
    """Shortest of several runs, and what the last one gave."""
    shortest, result = float("inf"), None
    for _ in range(times):
        started = time.perf_counter()
        result = action()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest, result


def thorax_labels() -> Labels:
    """A phantom's organs in the middle of a 512 x 512 x 400 field of view."""
    _, truth = scan(conceive(1), Scanner(SPACING, (200, 160, 170)), 1)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[100:300, 170:330, 170:340] = truth.labels_zyx
    return Labels(labels, axial_grid(SHAPE, SPACING, np.zeros(3)), TRUTH_LABELS)


def write_series(folder: Path, *, jpeg_2000: bool) -> Path:
    """A noisy 512 x 512 x 400 series, uncompressed or JPEG 2000."""
    rng = np.random.default_rng(0)
    grid = axial_grid((1, *SHAPE[1:]), SPACING, np.zeros(3))
    identity = CtIdentity("BENCH", f"2.25.66.{int(jpeg_2000)}", ("20260101", "120000"))
    folder.mkdir(parents=True)
    noise = rng.normal(0, 60, SHAPE[1:]).astype(np.float32)
    template = ct_instances(Volume(noise[None], grid), identity)[0]
    for k in range(SHAPE[0]):
        stored = np.roll(np.frombuffer(template.PixelData, "<u2").reshape(SHAPE[1:]), k, axis=0)
        ds = pydicom.dcmread(_encoded(template))
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.67.{k + 1}"
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient = ["0", "0", f"{k * SPACING.z:.4f}"]
        ds.PixelData = stored.tobytes()
        if jpeg_2000:
            code = io.BytesIO()
            Image.fromarray(stored).save(code, "JPEG2000", irreversible=False, no_jp2=True)
            ds.PixelData = encapsulate([code.getvalue()])
            ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
            ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        ds.save_as(folder / f"{k:04d}.dcm", enforce_file_format=True)
    return folder


def _encoded(ds: pydicom.Dataset) -> io.BytesIO:
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    file.seek(0)
    return file


def ours(folder: Path, labels: Labels, out: Path) -> float:
    """Headers to saved RTSTRUCT; returns the contour step's share."""
    series = assemble(read_headers(sorted(folder.iterdir())))
    started = time.perf_counter()
    contours = trace(Labels(labels.labels_zyx, series.grid, labels.organs)).contours
    contour_s = time.perf_counter() - started
    out.write_bytes(rtstruct.build(series, contours, labels.volumes_mm3(), IDENTITY, STYLE))
    return contour_s


def theirs(folder: Path, masks: dict[str, np.ndarray], out: Path) -> float:
    """The same by rt-utils, as its README does it."""
    from rt_utils import RTStructBuilder

    built = RTStructBuilder.create_new(dicom_series_path=str(folder))
    started = time.perf_counter()
    for organ, mask in masks.items():
        built.add_roi(mask=mask, name=organ.value)
    contour_s = time.perf_counter() - started
    built.save(str(out))
    return contour_s


def bench_rtstruct(folder: Path) -> dict[str, float]:
    """Read headers to saved RTSTRUCT: limn against rt-utils from the package index."""
    labels = thorax_labels()
    # rt-utils documents masks as (rows, columns, slices).
    masks = {
        organ: np.ascontiguousarray(np.moveaxis(labels.mask(organ), 0, 2))
        for organ in TRUTH_LABELS.values()
    }
    found: dict[str, float] = {}
    for name, jpeg_2000, times in (("uncompressed", False, 3), ("JPEG 2000", True, 1)):
        series = write_series(folder / name.replace(" ", ""), jpeg_2000=jpeg_2000)
        ours_s, ours_contour_s = best(times, lambda s=series: ours(s, labels, folder / "o.dcm"))
        theirs_s, theirs_contour_s = best(
            times, lambda s=series: theirs(s, masks, folder / "t.dcm")
        )
        found[f"RTSTRUCT {name}: rt-utils / limn"] = theirs_s / ours_s
        found[f"RTSTRUCT {name}: contour step, rt-utils / limn"] = theirs_contour_s / ours_contour_s
        print(
            f"512x512x400 {name}: headers to saved RTSTRUCT limn {ours_s:.2f} s, rt-utils "
            f"{theirs_s:.2f} s; contour step {ours_contour_s:.3f} / {theirs_contour_s:.3f} s"
        )
        shutil.rmtree(series)
    return found


def bench_node(folder: Path) -> dict[str, float]:
    """One phantom through a whole node: where the time between the doors goes."""
    if not demo(folder / "demo", 7):
        raise SystemExit("the demonstration failed")
    (row,) = scanlog.rows(folder / "demo" / "node" / "scans.csv")
    door_s = float(row["door_to_door_s"])
    dispatch_s = float(row["settle_s"]) + float(row["overhead_s"])
    print(f"last slice to dispatch: at most {dispatch_s:.3f} s (settle_s + all of overhead_s)")
    return {
        "node: inference_s / door_to_door_s": float(row["inference_s"]) / door_s,
        "node: overhead_s / door_to_door_s": float(row["overhead_s"]) / door_s,
    }


def main() -> None:
    """Run what was asked for; print the ratios and keep them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*WHAT, []])
    parser.add_argument("--json", type=Path, default=Path("bench-results.json"))
    parsed = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    wanted = parsed.what or WHAT
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="limn-bench-") as name:
        folder = Path(name)
        if "rtstruct" in wanted:
            ratios |= bench_rtstruct(folder)
        if "engine" in wanted:
            ratios |= bench_engine(folder)
        if "paper" in wanted:
            ratios |= bench_paper(folder) | bench_paper_field(folder)
        if "body" in wanted:
            ratios |= bench_whole_body(folder)
        if "node" in wanted:
            ratios |= bench_node(folder)
        if "receive" in wanted:
            ratios |= bench_receive(folder / "receive")
        if "overhead" in wanted:
            ratios |= bench_overhead(folder / "overhead")
    for name, ratio in ratios.items():
        print(f"{name:55} {ratio:8.2f}")
    parsed.json.write_text(json.dumps(ratios, indent=1) + "\n")


if __name__ == "__main__":
    main()
