"""Files as they come back from a bad disk, a broken download or a bad person, and what a reader has to make of them.

A reader gives what a file says, or refuses it in one line that names it. It raises nothing else, runs nothing that a
file holds, and takes no memory that the file has not paid for with its size.
"""

from __future__ import annotations

import io
import pickle
import resource
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from hypothesis import strategies as st

from alignprune.errors import UserError

_Read = TypeVar("_Read")

LONGEST = 3_000  # characters of a mistake, however long the cells and the names in a file are


def made_of(file: Path, content: bytes, read: Callable[[], _Read], named: Path | None = None) -> _Read | None:
    """What a reader makes of a file with this content; None where it refuses it as it should.

    Args:
        file: is written.
        content: what it holds from now on.
        read: the reader.
        named: whose name a mistake has to say; None for the file's.
    """
    file.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what nothing reads, and the like
            return read()
    except UserError as mistake:
        check_line(str(mistake), named or file)
        return None


def check_line(mistake: str, file: Path) -> None:
    """A mistake is one line, no longer than one reads, with the name of the file."""
    assert file.name in mistake
    assert "\n" not in mistake
    assert len(mistake) < LONGEST


# -- damage ------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """A valid file that was cut off, or has other bits, bytes, parts or lines than it had."""
    end = len(valid)
    start = draw(st.integers(0, end - 1))
    stop = min(end, start + draw(st.integers(1, 40)))
    kind = draw(st.sampled_from(["cut", "bit", "bits", "byte", "zeros", "lost", "twice", "foreign"]))
    if kind == "cut":
        return valid[:start]
    if kind in ("bit", "bits"):
        content = bytearray(valid)
        for place in [start] if kind == "bit" else draw(st.lists(st.integers(0, end - 1), min_size=2, max_size=8)):
            content[place] ^= 1 << draw(st.integers(0, 7))
        return bytes(content)
    instead = {
        "byte": draw(st.sampled_from([b"\0", b"\xff", b"\n", b"\r", b'"', b",", b" ", b"9", b"-", b"nan", b"1e999"])),
        "zeros": bytes(stop - start),
        "lost": b"",
        "twice": 2 * valid[start:stop],
        "foreign": draw(st.sampled_from(list(FOREIGN.values())))[:2_000],
    }[kind]
    return valid[:start] + instead + valid[start + 1 if kind == "byte" else stop :]


# -- other kinds of files ----------------------------------------------------------------------------------


def npz(**arrays: Any) -> bytes:
    """An .npz file, compressed."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    """An .npy file, also of Python objects."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def saved(value: Any, *, archive: bool = True) -> bytes:
    """What torch.save writes, now or as it did before it wrote archives."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=archive)
    return file.getvalue()


FOREIGN: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(3_000),
    "a blank line": b"\n\n \n",
    "a web page": b"<!doctype html>\n<html><body>404</body></html>\n",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "text in UTF-16": "label,text\ncat,a\ndog,b\n".encode("utf-16"),
    "text in Latin 1": "l\xe9gende,texte\nchat,\xe9t\xe9\n".encode("latin-1"),
    "a quote without end": b'label,text\ncat,"a\ndog,b\n',
    "JSON: null": b"null",
    "JSON: a list": b"[1, 2]",
    "JSON: a number too long": b"9" * 5_000,
    "JSON: brackets too deep": b"[" * 50_000,
    "JSON: objects too deep": b'{"a":' * 20_000,
    "gzip": b"\x1f\x8b\x08" + bytes(40),
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "an array": npy(np.array(["a", "b"])),
    "arrays": npz(a=np.arange(3)),
    "a tensor": saved(torch.zeros(3, 2)),
    "a zip without an end": npz(a=np.arange(3))[:-30],
}
"""Files that are none of what any reader reads, by what they are."""


class Opens:
    """Opens a file for writing, and so makes it, where its pickle is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.marker), "w"))


def hostile(marker: Path) -> dict[str, bytes]:
    """Files in every format that can hold a pickle, each with one that makes the marker where it is run."""
    harm = Opens(marker)
    objects = np.array([harm] * 20, dtype=object)
    names = ("x_train", "y_train", "x", "labels")
    return {
        "a pickle": pickle.dumps(harm),
        "a pickle that is packed": zlib.compress(pickle.dumps({"train": harm, "test": harm})),
        "an array of objects": npy(objects),
        "arrays of objects": npz(**dict.fromkeys(names, objects)),
        "torch.save": saved({"state_dict": harm, "clean_label": harm}),
        "torch.save before archives": saved({"state_dict": harm, "clean_label": harm}, archive=False),
        "torch.save of the harm alone": saved(harm),
    }


# -- memory ------------------------------------------------------------------------------------------------


@contextmanager
def little_memory(most: int = 300 * 2**20) -> Iterator[None]:
    """Nothing in here takes so many bytes more than this process ever took."""
    before = _peak()
    yield
    assert _peak() - before < most


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
