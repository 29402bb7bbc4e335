"""What a file that cannot be read really is: a pointer of Git LFS, a web page, or nothing at all.

These stand in the place of data after a clone without Git LFS, or a download that a server answered with a page.
"""

from __future__ import annotations

import os

from alignprune.errors import ValueMistake

_HEAD = 512  # bytes that tell

_LONG = 200  # characters of a file or of a reader that a sentence repeats

_LFS = "version https://git-lfs"


class Unreadable(ValueMistake):
    """Data that is there and cannot be read.

    Attributes:
        reason: why, without the name of the file and without what to do.
    """

    reason: str = ""


def substitute(head: bytes) -> tuple[str, str] | None:
    """What stands in the place of data.

    Args:
        head: the first bytes of the file, 512 or more where it has as many.

    Returns:
        what it is, and what to do; None for what may be data.
    """
    if not head:
        return "is empty", "copy it again"
    start = head[:_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(_LFS.encode()):
        return "is a pointer of Git LFS and not the file itself", "fetch the file with git lfs pull"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page (HTML) that was saved in its place", "download the file itself"
    return None


def head_of(file: str | os.PathLike[str]) -> bytes:
    """The first bytes of a file."""
    with open(file, "rb") as content:
        return content.read(_HEAD)


def refuse_substitute(place: str, file: str | os.PathLike[str], expected: str) -> None:
    """Refuse a file that is a pointer, a web page or empty, before a reader takes it for data.

    Args:
        place: what to call it, such as "path='my.csv'".
        file: the file; a folder or a missing file passes.
        expected: what should be in it.

    Raises:
        Unreadable: if something stands in the place of the data.
    """
    if os.path.isfile(file):
        found = substitute(head_of(file))
        if found is not None:
            raise _mistake(place, found[0], expected, found[1])


def unreadable(
    place: str, source: bytes | str | os.PathLike[str], said: str | BaseException, expected: str, remedy: str
) -> Unreadable:
    """The mistake to raise where a reader failed: what the file really is, or else what the reader said.

    Args:
        place: what to call it, such as "file='3.png'".
        source: the file, or its content.
        said: what the reader said, or raised.
        expected: what should be there.
        remedy: what to do where nothing better is known.
    """
    if not isinstance(source, bytes) and os.path.isdir(source):
        return _mistake(place, "is a folder", expected, "give the file itself")
    head = source if isinstance(source, bytes) else head_of(source) if os.path.isfile(source) else None
    found = None if head is None else substitute(head)
    if found is None:
        return _mistake(place, f"cannot be read ({sentence(said)})", expected, remedy)
    return _mistake(place, found[0], expected, found[1])


def brief(text: object) -> str:
    """A text of a file for a sentence: in one line, and cut where it is long."""
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text)[:_LONG])
    return line if len(str(text)) <= _LONG else f"{line}... ({len(str(text)):,} characters)"


def quoted(value: object) -> str:
    """A value of a file for a sentence, as Python writes it, and cut where it is long."""
    return brief(repr(value))


def sentence(said: str | BaseException) -> str:
    """What a reader said, or raised, in one line."""
    if isinstance(said, BaseException):
        if "weights_only" in str(said):  # torch advises to run what the file holds
            return f"{type(said).__name__}: it is damaged, or holds more than tensors and plain values"
        said = f"{type(said).__name__}: {said}" if str(said) else type(said).__name__
    return brief(" ".join(said.split()))


def _mistake(place: str, reason: str, expected: str, remedy: str) -> Unreadable:
    # Set afterwards: a loader's process sends an exception as its type and its text alone.
    mistake = Unreadable(f"{place} {reason}, expected {expected}: {remedy}")
    mistake.reason = reason
    return mistake
