"""Text files that list images, one a line: "PATH", or "PATH CLASS" with a class id. Blank lines are skipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

from alignprune.bench.contents import brief, quoted, refuse_substitute
from alignprune.bench.data.records import as_labels, check_exists
from alignprune.bench.data.views import FileNames, ImageFiles
from alignprune.bench.reading import reading
from alignprune.errors import ValueMistake

Entry = tuple[str, int]

_DIGITS = 9  # more than a class id has, and fewer than Python refuses to read


def paths(file: Path) -> list[tuple[int, str]]:
    """Line number and path of every image in a list of paths.

    Args:
        file: the list.

    Raises:
        ValueError: if a pointer or a web page stands in its place.
    """
    place, expected = f"file={str(file)!r}", "a list of images"
    refuse_substitute(place, file, expected)
    with reading(place, file, expected, "copy the list again"):
        # Names that are not UTF-8 pass through unchanged, as in the functions of os.
        with open(file, encoding="utf-8-sig", errors="surrogateescape") as lines:
            return [(number, line.strip()) for number, line in enumerate(lines, 1) if not line.isspace()]


def entries(file: Path, num_classes: int) -> Iterator[Entry]:
    """Path and class id of every image in a list of both.

    Args:
        file: the list.
        num_classes: class ids lie in 0..num_classes-1.

    Raises:
        ValueError: if a line is not "PATH CLASS" or its class id is out of range, with the line's number.
    """
    for number, line in paths(file):
        path, _, label = line.replace("\t", " ").rpartition(" ")
        if not path or not label.isdecimal():
            raise ValueMistake(
                f"file={str(file)!r} says {quoted(line)} in line {number}, expected 'PATH CLASS' with a class id: copy "
                "the list again"
            )
        if len(label) > _DIGITS or int(label) >= num_classes:
            raise ValueMistake(
                f"file={str(file)!r} gives {quoted(path)} the class id {brief(label)} in line {number}, expected 0 to "
                f"{num_classes - 1}: copy the list again"
            )
        yield path.rstrip(), int(label)


def images(root: Path, folder: Path, listed: Sequence[Entry], source: str, transform: nn.Module | None) -> ImageFiles:
    """The listed images, after a look whether the first three and the last are there.

    The look finds a folder that is missing or lies elsewhere; to look for all of a million files would take
    minutes, and one that is missing among them is named when it is loaded.

    Args:
        root: the data root.
        folder: folder, under the root, that the paths start from.
        listed: path and class id of each image, at least one.
        source: where the images come from.
        transform: RGB image to tensor.

    Raises:
        FileNotFoundError: if one of these is missing.
    """
    for path, _ in [*listed[:3], listed[-1]]:
        check_exists(root, folder / path, source)
    return ImageFiles(FileNames(folder, [path for path, _ in listed]), as_labels([y for _, y in listed]), transform)
