"""Files as the programs of micro-CT scanners write them: SkyScan sections, Inveon images."""

from pathlib import Path

import numpy as np
import SimpleITK

SKYSCAN_LOG = """[System]
Scanner=SkyScan1278
[Acquisition]
Data Directory=C:\\Users\\N\xfaria
Filename Prefix=mouse_
Image Pixel Size (um)=51.423
[Reconstruction]
Reconstruction Program=NRecon
First Section={first}
Last Section={last}
Section to Section Step={step}
Sections Count={count}
Result File Type={kind}
Result Image Width (pixels)={width}
Result Image Height (pixels)={height}
Pixel Size (um)={pixel_um:.5f}
Minimum for CS to Image Conversion=0.000000
Maximum for CS to Image Conversion=0.080000
HU Calibration=OFF
[File name convention]
Filename Index Length=8
Filename Prefix=mouse_rec
"""
INVEON_HEADER = """#
#
# Header file for data file mouse.ct.img
#
version 001.900
# Image modality: 0 - PET, 1 - CT, 2 - SPECT
modality 1
file_type 5
total_frames 1
data_type {data_type}
data_order 1
number_of_dimensions 3
x_dimension {x}
y_dimension {y}
z_dimension {z}
pixel_size 0.0097
pixel_size_x {dx}
pixel_size_y {dy}
pixel_size_z {dz}
subject_orientation 2
subject_identifier mouse 7
end_of_header
frame 0
scale_factor {scale}
end_of_header
"""


def write_sections(
    folder: Path, grey_zyx: np.ndarray, pixel_um: float, ending: str = "tif", step: int = 1
) -> Path:
    """Sections of 8 or 16 bits with their log and a preview; returns the log."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, section in enumerate(grey_zyx):
        image = SimpleITK.GetImageFromArray(section)
        SimpleITK.WriteImage(image, str(folder / f"mouse_rec{20 + k * step:08d}.{ending}"))
    SimpleITK.WriteImage(
        SimpleITK.GetImageFromArray(grey_zyx[0]), str(folder / f"mouse_rec_spr.{ending}")
    )
    count, height, width = grey_zyx.shape
    log = folder / "mouse_rec.log"
    text = SKYSCAN_LOG.format(
        first=20,
        last=20 + (count - 1) * step,
        step=step,
        count=count,
        kind=ending.upper(),
        width=width,
        height=height,
        pixel_um=pixel_um,
    )
    log.write_bytes(text.encode("latin-1"))
    return log


def write_inveon(
    folder: Path,
    stored_zyx: np.ndarray,
    spacing_zyx_mm: tuple[float, float, float],
    data_type: int = 2,
    scale: float = 1.0,
) -> Path:
    """An image with its header; returns the image."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "mouse.ct.img"
    image.write_bytes(stored_zyx.tobytes())
    z, y, x = stored_zyx.shape
    dz, dy, dx = spacing_zyx_mm
    header = INVEON_HEADER.format(
        data_type=data_type, x=x, y=y, z=z, dx=dx, dy=dy, dz=dz, scale=scale
    )
    (folder / "mouse.ct.img.hdr").write_text(header)
    return image
