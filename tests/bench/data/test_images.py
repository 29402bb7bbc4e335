"""Images as they are: depth, transparency, orientation, and what a file that is none really is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alignprune.bench.data.images import read_image
from alignprune.errors import ValueMistake


def content(image: Image.Image, form: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def pixels(source: bytes) -> list[Any]:
    return np.asarray(read_image("file='x'", source)).reshape(-1, 3).tolist()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_eight(form: str) -> None:
    deep = np.array([[0, 257, 257 * 100, 65535, 257 * 7 + 100]], dtype=np.uint16)
    assert pixels(content(Image.fromarray(deep), form)) == [[v] * 3 for v in (0, 1, 100, 255, 7)]


def test_the_bytes_of_sixteen_bits_may_come_in_either_order() -> None:
    swapped = Image.frombytes("I;16B", (2, 1), bytes([0x64, 0x64, 0xFF, 0xFF]))
    assert pixels(content(swapped, "TIFF")) == [[100] * 3, [255] * 3]


@pytest.mark.parametrize("dtype, kind", [(np.int32, "integers of 32 bits"), (np.float32, "floats")])
def test_values_whose_range_nobody_knows_are_refused_by_name(dtype: type, kind: str) -> None:
    file = content(Image.fromarray(np.zeros((2, 2), dtype=dtype)), "TIFF")
    with pytest.raises(ValueError, match=rf"file='deep\.tif' cannot be read .*{kind}, whose range .* nobody knows"):
        read_image("file='deep.tif'", file)


def test_what_is_transparent_lies_on_white() -> None:
    red, clear, half = (255, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 128)
    image = Image.new("RGBA", (3, 1))
    image.putdata([red, clear, half])
    assert pixels(content(image)) == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]
    grey = Image.new("LA", (2, 1))
    grey.putdata([(7, 255), (7, 0)])
    assert pixels(content(grey)) == [[7, 7, 7], [255, 255, 255]]


def test_a_palette_and_a_colour_key_may_be_transparent() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 0, 0, 200])
    palette.putdata([0, 1])
    assert pixels(content(palette, transparency=0)) == [[255, 255, 255], [0, 0, 200]]
    assert pixels(content(palette)) == [[9, 9, 9], [0, 0, 200]]
    keyed = Image.new("RGB", (2, 1), (1, 2, 3))
    keyed.putpixel((1, 0), (4, 5, 6))
    assert pixels(content(keyed, transparency=(1, 2, 3))) == [[255, 255, 255], [4, 5, 6]]


def test_a_photo_stands_upright() -> None:
    lying = Image.new("RGB", (16, 8), "black")
    lying.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    upright = read_image("file='x'", content(lying, "JPEG", exif=exif, quality=95))
    assert upright.size == (8, 16)
    grey = np.asarray(upright.convert("L"))
    assert grey[:6].min() > 200
    assert grey[10:].max() < 50


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "P", "RGB"])
def test_every_other_mode_becomes_rgb(mode: str) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    assert pixels(content(Image.new("RGB", (1, 1), "white").convert(mode), form)) == [[255, 255, 255]]


@pytest.mark.parametrize(
    "head, match",
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
            "is a pointer of Git LFS.*git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html>404</html>", r"is a web page \(HTML\).*download the file itself"),
        (b"\xef\xbb\xbf<html><body>", r"is a web page"),
        (b"", "is empty, expected an image: copy it again"),
        (b"GIF89a broken", r"cannot be read \(.*replace or remove it"),
    ],
)
def test_what_is_no_image_is_told_as_what_it_is(tmp_path: Path, head: bytes, match: str) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(head)
    for source in (str(file), head):
        with pytest.raises(ValueMistake, match=match):
            read_image("file='a.png'", source)
