"""What a file that cannot be read really is: a pointer of Git LFS, a web page, or nothing at all.

These stand in the place of data after a clone without Git LFS, or a download that a server answered with a page.
"""

from __future__ import annotations

import os

from alignprune.errors import ValueMistake

_HEAD = 512  # bytes that tell

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


def unreadable(place: str, head: bytes, said: str, expected: str, remedy: str) -> Unreadable:
    """The mistake to raise where a reader failed: what the file really is, or else what the reader said.

    Args:
        place: what to call it, such as "file='3.png'".
        head: its first bytes, 512 or more where it has as many.
        said: what the reader said.
        expected: what should be there.
        remedy: what to do where nothing better is known.
    """
    found = substitute(head)
    if found is None:
        return _mistake(place, f"cannot be read ({said})", expected, remedy)
    return _mistake(place, found[0], expected, found[1])


def _mistake(place: str, reason: str, expected: str, remedy: str) -> Unreadable:
    # Set afterwards: a loader's process sends an exception as its type and its text alone.
    mistake = Unreadable(f"{place} {reason}, expected {expected}: {remedy}")
    mistake.reason = reason
    return mistake
