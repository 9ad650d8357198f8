"""Conversion of a drawing to the form of the data's images: scaled and centred as the data was prepared.

A network recognises digits only in the form of its training data. Two forms are supported; both scale the drawing to
a box of their own, whatever its size and place.

MNIST (28x28, and any other size but 8x8): the longer side of the digit fills 20 of 28 pixels, its proportions stay,
and whole pixels move its centre of mass to the middle [LeCun, Cortes, Burges, "The MNIST database"].

Optical recognition of handwritten digits (8x8): bitmaps of 32x32, of which each value counts the pixels of a
4x4 block [Alpaydin, Kaynak 1998]. NIST's preprocessing had made them upright (sheared), as high as the image, at most
20 wide, and their strokes as thick as it takes for the same ink in each [Garris et al., NISTIR 5469]: 0.305 of all
pixels, measured on the learning part, a 1 as black as an 8.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

Array: TypeAlias = NDArray[Any]
Stroke: TypeAlias = Sequence[Sequence[float]]
"""Points (x, y) of one pen stroke; 0 .. 1 from left to right and from top to bottom."""

RASTER: Final = 112
"""Pixels to the side of :func:`rasterise`; four to a pixel of MNIST."""
BOX: Final = 80.0
"""The longer side of a drawing in it, pen not counted."""
PEN: Final = 11.0
"""Width of the pen there, which gives MNIST its mean ink; for 8x8 it does not matter."""
MIN_SHARE: Final = 0.12
"""Share of the canvas below which a drawing is not magnified further, so that a dot stays a dot."""


def rasterise(strokes: Sequence[Stroke]) -> Array:
    """Draw strokes as ink 0 .. 1 of shape (RASTER, RASTER), centred, BOX pixels large, with a pen PEN pixels wide.

    The lines are scaled before the pen is applied, so that small and large drawings have equally thick strokes.
    """
    lines = [np.asarray(stroke, dtype=float).reshape(-1, 2) for stroke in strokes if len(stroke)]
    if not lines:
        return np.zeros((RASTER, RASTER))
    points = np.concatenate(lines)
    low, high = points.min(0), points.max(0)
    scale = BOX / max(float((high - low).max()), MIN_SHARE)
    empty = np.ones((RASTER, RASTER), dtype=bool)
    for line in lines:
        placed = (line - (low + high) / 2) * scale + RASTER / 2
        along = np.concatenate([[0.0], np.hypot(*np.diff(placed, axis=0).T).cumsum()])
        dots = np.linspace(0, along[-1], int(2 * along[-1]) + 2)  # half a pixel apart: no gaps
        x, y = (np.interp(dots, along, placed[:, axis]).astype(int) for axis in (0, 1))
        empty[y, x] = False
    ink: Array = np.clip(PEN / 2 + 0.5 - ndimage.distance_transform_edt(empty), 0, 1)
    return ink


def to_form(ink: Array, side: int, pixel_max: int) -> Array:
    """Convert a drawing to the form of the data, see above.

    Args:
        ink: 0 (none) .. 1, two-dimensional, of any size.
        side: pixels to the side of the data's images.
        pixel_max: the value of a full pixel there.

    Returns:
        Whole numbers 0 .. ``pixel_max``, float, shape (side * side,); zeros where there is no ink.
    """
    if not (ink > 0.5).any():
        return np.zeros(side * side)
    image = _digits_form(ink) if side == 8 else _mnist_form(ink, side)
    return np.round(image * pixel_max).ravel()


_NIST_SIDE: Final = 32
_NIST_WIDTH: Final = 20
_NIST_INK: Final = 0.305
_FINE: Final = 2
"""Pixels to one of NIST's bitmaps, so that thickness can be set finely."""


def _digits_form(ink: Array) -> Array:
    digit = _crop(_deslant(ink))
    height, width = digit.shape
    tall, wide = _NIST_SIDE * _FINE, _NIST_WIDTH * _FINE
    scale = tall / max(height, _min_side(ink))
    across = min(scale, wide / width)
    bits = _resample(_resample(digit, tall, scale, 0), tall, across, 1)
    inside = bits > bits.max() / 2
    distance = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    thin, thick = -float(tall), float(tall)
    for _ in range(14):  # thicker grows monotonically, so halving finds it
        grown = (thin + thick) / 2
        bits = np.clip(grown + 0.5 - distance, 0, 1)
        thin, thick = (grown, thick) if bits.mean() < _NIST_INK else (thin, grown)
    block = tall // 8
    blocks: Array = bits.reshape(8, block, 8, block).mean((1, 3))
    return blocks


def _mnist_form(ink: Array, side: int) -> Array:
    digit = _crop(ink)
    height, width = digit.shape
    scale = side * 20 / 28 / max(height, width, _min_side(ink))
    image = _resample(_resample(digit, side, scale, 0), side, scale, 1)
    for axis in (0, 1):
        centre = np.average(np.arange(side), weights=image.sum(1 - axis))
        image = _shift(image, round(side // 2 - centre), axis)
    return image


def _deslant(ink: Array) -> Array:
    """Shear along the rows so that the centre of a row's ink does not depend on the row."""
    rows, columns = np.nonzero(ink > 0.5)
    down, right = rows - rows.mean(), columns - columns.mean()
    slant = float(np.clip((down * right).sum() / max(float((down * down).sum()), 1.0), -1, 1))
    room = ink.shape[0] // 2
    wide = np.pad(ink, ((0, 0), (room, room)))
    sheared: Array = ndimage.affine_transform(
        wide, np.array([[1, 0], [slant, 1]]), offset=[0, -slant * rows.mean()], order=1
    )
    return sheared


def _crop(ink: Array) -> Array:
    """Crop to the smallest box that contains all ink."""
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _min_side(ink: Array) -> float:
    return float(max(ink.shape) * MIN_SHARE)


def _resample(image: Array, side: int, scale: float, axis: int) -> Array:
    """Scale ``image`` by ``scale`` along an axis and centre it in ``side`` pixels.

    Each pixel is the integral of the image over it: differences of the interpolated cumulative sum. (A matrix product
    would wait for BLAS threads that a training occupies.)
    """
    lines = np.moveaxis(image, axis, 0)
    count = len(lines)
    sums = np.zeros((count + 2, *lines.shape[1:]))
    np.cumsum(lines, 0, out=sums[1:-1])
    sums[-1] = sums[-2]
    edges = np.clip((np.arange(side + 1) - (side - count * scale) / 2) / scale, 0, count)
    whole = edges.astype(int)
    part = (edges - whole)[:, None]
    resampled: Array = np.moveaxis(np.diff(sums[whole] * (1 - part) + sums[whole + 1] * part, axis=0) * scale, 0, axis)
    return resampled


def _shift(image: Array, by: int, axis: int) -> Array:
    """Shift by whole pixels; pixels that enter are empty."""
    shifted: Array = ndimage.shift(image, [by if axis == k else 0 for k in (0, 1)], order=0)
    return shifted
