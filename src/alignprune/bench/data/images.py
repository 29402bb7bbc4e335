"""Images as they are: one way to read them, for folders, tables and Hugging Face data sets.

Every image becomes RGB with 8 bits a channel: 16 bits a pixel are scaled by 1/257, what is transparent lies on white,
and a photo stands upright as its EXIF data say. A range that nobody knows is refused and not guessed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from alignprune.bench.contents import unreadable

if TYPE_CHECKING:
    from PIL import Image

_Made = TypeVar("_Made")

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")

# 65,535 / 255: the brightest value of 16 bits becomes the brightest of 8.
_SCALE = 257

# Formats whose grey images of mode I hold 16 bits at most: older versions of Pillow open them so.
_SIXTEEN_BITS = ("PNG", "PPM")


def read_image(place: str, source: str | bytes) -> Image.Image:
    """Read an image.

    Args:
        place: what to call it in errors, such as "file='3.png'".
        source: path of the file, or its content.

    Returns:
        the image in RGB, upright; of an animation the first picture.

    Raises:
        Unreadable: if it is damaged, no image, or an image whose range of values nobody knows.
    """
    return opened(place, source, as_rgb)


def opened(place: str, source: str | bytes, use: Callable[[Image.Image], _Made]) -> _Made:
    """What is made of an image while its file is open.

    Args:
        place: as in `read_image`.
        source: as in `read_image`.
        use: of the image as it is stored.

    Raises:
        Unreadable: if it is damaged, no image, or ``use`` refuses it.
    """
    try:
        if not isinstance(source, bytes) and not os.path.isfile(source):
            raise FileNotFoundError("it is no file")  # to open a pipe or a device might wait for ever
        with _open(source) as image:
            if image.format != "PNG":
                return use(image)
            image.verify()  # its checksums, which Pillow compares in one pass and decodes in another
        with _open(source) as image:
            return use(image)
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, ... by image format
        raise unreadable(place, source, error, "an image", "replace or remove it") from error


def _open(source: str | bytes) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def as_rgb(image: Image.Image) -> Image.Image:
    """An image in RGB with 8 bits a channel, upright.

    Args:
        image: in any mode of Pillow.

    Raises:
        ValueError: if its values are integers of 32 bits or floats.
    """
    from PIL import Image, ImageOps

    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS)
    image = ImageOps.exif_transpose(image)
    if sixteen:
        grey = np.asarray(image).astype(np.int64)
        return Image.fromarray(((grey + _SCALE // 2) // _SCALE).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "integers of 32 bits" if image.mode == "I" else "floats"
        raise ValueError(f"its values are {kind}, whose range from black to white nobody knows: save it with 8 or 16")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
