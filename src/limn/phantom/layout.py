"""The curves of the straight mouse of size 1 that several organs share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from limn.phantom.anatomy import Build, Mouse
from limn.phantom.canvas import AxialProfile, Canvas, Field, ellipse

# The cranial edge of the first thoracic vertebra and the bottom of the pelvis.
INLET_Z_MM = 7.0
PELVIS_Z_MM = -34.0
# Room for canal, vertebral body and oesophagus between the middle of the canal and the heart.
BENEATH_CANAL_MM = 3.6
# Curves of a usual mouse: mm at z in mm. The cage widens towards the tail, for the diaphragm.
STERNUM_Y_MM: Mapping[float, float] = {
    -60: -5.0,
    -12: -5.5,
    -6: -5.6,
    -2: -5.5,
    2: -5.0,
    5: -4.1,
    7: -3.3,
    45: -3.0,
}
CAGE_HALF_WIDTH_MM: Mapping[float, float] = {
    -20: 8.6,
    -12: 8.4,
    -8: 8.1,
    -4: 7.5,
    -1: 6.8,
    2: 5.6,
    4: 4.2,
    5.6: 2.7,
    7: 1.4,
}
BACK_Y_MM: Mapping[float, float] = {
    -60: 4.0,
    -42: 5.5,
    -30: 9.0,
    -10: 10.6,
    0: 10.5,
    6: 9.4,
    12: 7.8,
    20: 7.4,
    27: 4.5,
    33: 0.5,
    34: 0.0,
}
FRONT_Y_MM: Mapping[float, float] = {
    -60: 2.0,
    -42: -3.0,
    -34: -7.0,
    -20: -9.6,
    -8: -8.4,
    0: -8.0,
    6: -6.8,
    11: -5.6,
    20: -5.2,
    28: -4.0,
    33: -1.5,
    34: -0.5,
}
BODY_HALF_WIDTH_MM: Mapping[float, float] = {
    -60: 1.6,
    -44: 3.0,
    -37: 8.5,
    -22: 12.0,
    -8: 10.6,
    0: 10.2,
    5: 9.2,
    10: 7.4,
    14: 6.6,
    19: 7.6,
    25: 5.4,
    32: 1.8,
    34: 0.4,
}


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Curves of z, and numbers, for one mouse.

    Attributes
    ----------
    spine_y, sternum_y : of the middle of the canal and of the sternum
    cage_half_width : of the inside of the rib cage
    back_y, front_y, body_half_width : of the skin
    vertebra : index along the spine, 0 at the cranial edge of T1, 13 at the caudal edge of T13
    """

    build: Build
    spine_y: AxialProfile
    spine_slope: AxialProfile
    sternum_y: AxialProfile
    cage_half_width: AxialProfile
    back_y: AxialProfile
    front_y: AxialProfile
    body_half_width: AxialProfile
    vertebra: AxialProfile
    dome_z_mm: float

    @classmethod
    def of(cls, mouse: Mouse) -> Layout:
        """The curves of a mouse."""
        build = mouse.build
        z = np.arange(-60.0, 45.0, 0.5)
        sternum_y = AxialProfile(STERNUM_Y_MM, build.chest_depth)
        spine = _clear_of_heart(build, sternum_y, z)
        slope = np.gradient(spine, z)
        length = np.cumsum(np.sqrt(1.0 + slope**2)) * 0.5
        from_t1 = np.interp(INLET_Z_MM, z, length) - length
        deep, wide = build.chest_depth, build.chest_width
        plump = 1.0 + 0.03 * (build.fat_mm - 0.8)
        return cls(
            build=build,
            spine_y=AxialProfile(dict(zip(z, spine, strict=True))),
            spine_slope=AxialProfile(dict(zip(z, slope, strict=True))),
            sternum_y=sternum_y,
            cage_half_width=AxialProfile(CAGE_HALF_WIDTH_MM, wide),
            back_y=AxialProfile(BACK_Y_MM, (0.5 + 0.5 * deep) * plump),
            front_y=AxialProfile(FRONT_Y_MM, (0.5 + 0.5 * deep) * plump * build.belly),
            body_half_width=AxialProfile(
                BODY_HALF_WIDTH_MM, (0.5 + 0.5 * wide) * plump * build.belly
            ),
            vertebra=AxialProfile(dict(zip(z, from_t1 / build.vertebra_pitch_mm, strict=True))),
            dome_z_mm=build.dome_z_mm + mouse.pose.breath_mm,
        )

    def cage(self, canvas: Canvas) -> Field:
        """Signed distance to the inside of the rib cage."""
        back = self.spine_y(canvas.z) + np.float32(0.5)
        front = self.sternum_y(canvas.z) + np.float32(0.5)
        half = np.maximum((back - front) / 2, 0.4)
        inside = ellipse(
            canvas.x, canvas.y - (back + front) / 2, self.cage_half_width(canvas.z), half
        )
        return np.asarray(np.maximum(inside, canvas.z - INLET_Z_MM), dtype=np.float32)

    def dome(self, canvas: Canvas) -> Field:
        """Height above the diaphragm, mm; negative in the belly.

        The diaphragm has two cupolas, the right one higher; its rim is lowest at the back.
        """
        build = self.build
        x = canvas.x / np.float32(7.4 * build.chest_width)
        y = (canvas.y + np.float32(0.5)) / np.float32(7.0 * build.chest_depth)
        rim = np.sqrt(x * x + y * y + 1e-6) ** 2.4
        falls = np.float32(build.dome_depth_mm) * (1.0 + 0.4 * np.tanh(1.5 * y))
        two = 0.5 * np.exp(-(((x + 0.4) / 0.35) ** 2)) + 0.2 * np.exp(-(((x - 0.4) / 0.35) ** 2))
        height = np.float32(self.dome_z_mm) + two.astype(np.float32) - falls * rim
        steep = np.sqrt(1.0 + (2.4 * falls / 7.0) ** 2 * np.minimum(rim, 1.0))
        return np.asarray((canvas.z - height) / steep, dtype=np.float32)

    def skin(self, canvas: Canvas) -> Field:
        """Signed distance to the outline of trunk, neck and head."""
        back, front = self.back_y(canvas.z), self.front_y(canvas.z)
        half = np.maximum((back - front) / 2, 0.3)
        inside = ellipse(
            canvas.x, canvas.y - (back + front) / 2, self.body_half_width(canvas.z), half
        )
        return np.asarray(np.maximum(inside, np.abs(canvas.z + 13.0) - 46.5), dtype=np.float32)


def heart_size_mm(build: Build) -> tuple[float, float]:
    """Radius and half length of the egg of the ventricles in the mouse of size 1.

    The atria add a tenth to the volume.
    """
    volume = build.heart_volume_mm3 / build.size**3 / 1.12
    radius = (volume / (4.0 / 3.0 * np.pi * build.heart_slenderness)) ** (1 / 3)
    return float(radius), float(radius * build.heart_slenderness)


def heart_middle_mm(build: Build, sternum_y: AxialProfile) -> tuple[float, float, float]:
    """The middle of the heart, which lies on the sternum: x y z."""
    x, y, z = build.heart_centre_xyz_mm
    return x, y + float(sternum_y(z)) + heart_size_mm(build)[0] + 0.75, z


def _clear_of_heart(build: Build, sternum_y: AxialProfile, z: np.ndarray) -> np.ndarray:
    """The curve of the spine; its swing moves towards the head until the heart has room."""
    radius, length = heart_size_mm(build)
    _, middle_y, middle_z = heart_middle_mm(build, sternum_y)
    off = np.clip((z - middle_z) / (length + 1.0), -1.0, 1.0)
    heart_back = middle_y + radius * np.sqrt(1.0 - off**2)
    beside = np.abs(off) < 1.0
    swing_z_mm = build.spine_swing_z_mm
    spine = _spine_y(build, z, swing_z_mm)
    while (spine - heart_back)[beside].min() < BENEATH_CANAL_MM and swing_z_mm < 12.0:
        swing_z_mm += 0.25
        spine = _spine_y(build, z, swing_z_mm)
    return spine


def _spine_y(build: Build, z: np.ndarray, swing_z_mm: float) -> np.ndarray:
    """The y of the spine: from the neck in the middle of the body to the back and the pelvis."""
    high = 7.5 * build.chest_depth
    fall = 1.0 / (1.0 + np.exp((swing_z_mm - z) / build.spine_swing_over_mm))
    neck = 1.6 * np.exp(-(((z - 17.0) / 4.0) ** 2))
    pelvis = -2.5 / (1.0 + np.exp((z - PELVIS_Z_MM) / 4.0))
    return np.asarray(high - build.spine_drop_mm * fall + neck + pelvis)
