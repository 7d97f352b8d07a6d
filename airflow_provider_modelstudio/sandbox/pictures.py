"""What a picture looks like, in numbers: its colours, and where they are. No model: things are not recognised. Pure.

It needs Pillow, which the extra ``local`` brings.
"""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["CAN_LOOK", "look"]

CAN_LOOK = find_spec("PIL") is not None

_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
_MOST_PIXELS = 40_000_000
"""A larger one would take too much memory, and may be made to."""
_SIDE = 32
"""Pixels of the square that a picture is shrunk to."""
_CELLS = 4
"""Fields of the layout, along and down."""
_SHADES = 4
"""Steps of each of red, green and blue in the histogram of colours."""


def look(raw: bytes) -> npt.NDArray[np.float64] | None:
    """Numbers of a picture, by its bytes; ``None`` where Pillow is missing, and for what it cannot read."""
    if not CAN_LOOK:
        return None
    from PIL import Image  # noqa: PLC0415 - an optional extra

    try:
        with Image.open(BytesIO(raw), formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                return None
            small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # what Pillow raises over damaged pictures
    pixels = np.asarray(small, np.uint8)
    side = _SIDE // _CELLS
    layout = pixels.reshape(_CELLS, side, _CELLS, side, 3).mean(axis=(1, 3)) / 255.0 - 0.5
    shades = pixels.reshape(-1, 3).astype(np.int64) * _SHADES // 256
    counts = np.bincount(shades @ (_SHADES * _SHADES, _SHADES, 1), minlength=_SHADES**3)
    return np.concatenate([layout.ravel() / np.sqrt(layout.size), np.sqrt(counts / counts.sum())])
