"""A sample as the page shows it: an image, a text or values, made small enough to embed thousands."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignprune._checks import described
from alignprune.errors import TypeMistake, ValueMistake

if TYPE_CHECKING:
    from PIL import Image as pillow

# Measured on photographs: about 4 kB each, so 2,000 of them stay below 15 MB.
_SIDE, _QUALITY = 128, 75
_CHARACTERS = 4000
_VALUES = 64


@dataclass(frozen=True, eq=False)
class Image:
    """An image, or the bytes of an image file; the page holds it with at most 128 pixels a side.

    Raises:
        TypeMistake: for anything else, such as an array, of which it is not known how to draw its numbers.
    """

    image: pillow.Image | bytes

    def __post_init__(self) -> None:
        if isinstance(self.image, bytes):
            return
        from PIL import Image as pillow

        if not isinstance(self.image, pillow.Image):
            raise TypeMistake(
                f"image is {type(self.image).__name__}, expected an image of Pillow, or the bytes of an image file: "
                f"PIL.Image.fromarray makes one of a uint8 array [height, width] or [height, width, 3]"
            )


@dataclass(frozen=True)
class Text:
    """A text; the page holds its first 4,000 characters, and says so. TypeMistake for what is none."""

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeMistake(f"text={described(self.text)} is {type(self.text).__name__}, expected str: the text")


@dataclass(frozen=True)
class Values:
    """Numbers with names; the page holds the first 64, and says so. ValueMistake unless there are as many of each."""

    names: Sequence[str]
    numbers: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.numbers):
            raise ValueMistake(
                f"names and numbers are {len(self.names)} and {len(self.numbers)}, expected as many of each: one name "
                f"a number"
            )


Sample = Image | Text | Values


def embedded(sample: Sample) -> dict[str, Any]:
    """A sample as the script of the page reads it.

    Args:
        sample: the sample.

    Returns:
        JSON with "kind" image, text, values, or unreadable for an image that is none, with the "reason".

    Raises:
        TypeMistake: if it is none of these.
    """
    if isinstance(sample, Image):
        return _image(sample)
    if isinstance(sample, Text):
        return {"kind": "text", "text": sample.text[:_CHARACTERS], "size": len(sample.text)}
    if not isinstance(sample, Values):
        raise TypeMistake(
            f"sample={sample!r} is {type(sample).__name__}, expected Image, Text or Values: let show return one of them"
        )
    numbers = [float(number) if math.isfinite(number) else None for number in sample.numbers[:_VALUES]]
    return {
        "kind": "values",
        "names": [str(name) for name in sample.names[:_VALUES]],
        "numbers": numbers,
        "size": len(sample.numbers),
    }


def _image(sample: Image) -> dict[str, Any]:
    from PIL import Image as pillow
    from PIL import ImageOps

    try:
        image = pillow.open(io.BytesIO(sample.image)) if isinstance(sample.image, bytes) else sample.image
        width, height = image.size
        small = ImageOps.exif_transpose(_eight_bits(image))
        small.thumbnail((_SIDE, _SIDE))
        file = io.BytesIO()
        small.save(file, "WEBP", quality=_QUALITY, method=4)
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, ... by image format
        return {"kind": "unreadable", "reason": f"{type(error).__name__}: {error}"}
    uri = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
    return {"kind": "image", "uri": uri, "size": [width, height]}


def _eight_bits(image: pillow.Image) -> pillow.Image:
    """The image in RGB, or RGBA where it has transparency; deeper greys are scaled to what they span."""
    if image.mode.startswith(("I", "F")):
        import numpy as np
        from PIL import Image as pillow

        deep = np.asarray(image, dtype=np.float64)
        span = np.ptp(deep) or 1.0
        image = pillow.fromarray(((deep - deep.min()) / span * 255).astype(np.uint8))
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
