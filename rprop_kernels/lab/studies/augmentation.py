"""Augmentation of images by zoom, rotation, blur and black squares (report C)."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

Array: TypeAlias = NDArray[Any]
_Change: TypeAlias = Callable[[Array, np.random.Generator], Array]


def zoom(image: Array, rng: np.random.Generator) -> Array:
    """Zoom in or out by up to a fifth about the centre; new pixels are background."""
    factor = rng.uniform(0.8, 1.2)
    middle = (np.array(image.shape) - 1) / 2
    matrix = np.eye(2) / factor
    return ndimage.affine_transform(image, matrix, middle - matrix @ middle, order=1)  # type: ignore[no-any-return]


def rotate(image: Array, rng: np.random.Generator) -> Array:
    """Rotate to the left or right by up to 20 degrees."""
    angle = rng.uniform(5, 20) * rng.choice([-1, 1])
    return ndimage.rotate(image, angle, reshape=False, order=1)  # type: ignore[no-any-return]


def blur(image: Array, rng: np.random.Generator) -> Array:
    """Blur with a Gaussian of 1/40 to 1/28 of the width."""
    width = image.shape[1] * rng.uniform(1 / 40, 1 / 28)
    return ndimage.gaussian_filter(image, width)  # type: ignore[no-any-return]


def squares(image: Array, rng: np.random.Generator) -> Array:
    """Three background-coloured squares of a seventh of the width (a quarter at least two pixels)."""
    image = image.copy()
    side = max(1, image.shape[1] // 7)
    for _ in range(3):
        row, column = (int(rng.integers(size - side + 1)) for size in image.shape)
        image[row : row + side, column : column + side] = 0
    return image


CHANGES: Final = MappingProxyType[str, _Change](
    {"zoom": zoom, "rotation": rotate, "blur": blur, "black squares": squares}
)
"""By name; each gives a new image."""


def augmented(images: Array, labels: Array, seed: int) -> tuple[Array, Array]:
    """Return the images, followed by a copy for each of ``CHANGES``: five times as many.

    Args:
        images: shape (count, pixels), of square images, 0 is background.
        labels: shape (count,).
        seed: of the random changes.
    """
    side = round(images.shape[1] ** 0.5)
    if side * side != images.shape[1]:
        raise ValueError(f"{images.shape[1]} pixels are no square image")
    rng = np.random.default_rng(seed)
    parts = [images]
    for change in CHANGES.values():
        made = np.empty_like(images)
        for image, target in zip(images, made, strict=True):
            target[:] = change(image.reshape(side, side), rng).ravel()
        parts.append(made)
    return np.concatenate(parts), np.tile(labels, len(parts))
