"""Files that users give: read whole, or refused in a line that says which file, what is wrong and what to do.

Nothing here runs what a file holds, or takes memory out of all proportion to its size. Where a format has checksums
they are compared, also where its library does not: an .npz file and what torch.save writes are archives with one for
each array, a .csv, .npy, .txt or .safetensors file has none.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune.bench.contents import refuse_substitute, unreadable
from alignprune.errors import MissingFile, UserError, ValueMistake

if TYPE_CHECKING:
    import pyarrow

PathLike = str | os.PathLike[str]

MOST_COLUMNS = 100_000
"""Of a table."""

_END = 22  # bytes that end an archive, before its comment

_LONG = 2_000  # characters of a mistake

_LEAST_CELL = 8  # bytes of a value, about

# Data that are packed so well are a trap rather than data, from a size on that hurts.
_PACKED, _HURTS = 100, 2**30


@contextmanager
def reading(place: str, file: PathLike, expected: str, remedy: str) -> Iterator[None]:
    """Turn whatever a reader raises into a mistake that names the file.

    Args:
        place: what to call the file, such as "path='my.npz'".
        file: the file.
        expected: what should be in it.
        remedy: what to do where nothing better is known.

    Raises:
        Unreadable: where the reader raises, with what the file really is, or else with what the reader said.
        FileNotFoundError: if there is no such file.
    """
    if not os.path.exists(file):
        raise MissingFile(f"{place} is not there, expected {expected}: check the path")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # zipfile, pickle, numpy, pandas, pyarrow, torch, ... each raise many kinds
        raise unreadable(place, file, error, expected, remedy) from error


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Put the name of a file in front of the mistakes that are found in what it holds.

    Args:
        place: what to call the file, such as "path='my.npz'".
    """
    try:
        yield
    except UserError as error:
        said = str(error)
        if len(said) > _LONG:  # of a file that holds long words: what is to be done stands at the end
            said = f"{said[: _LONG // 2]}...{said[-_LONG // 2 :]}"
        raise type(error)(said if place in said else f"{place}: {said}") from error


def json_object(place: str, file: PathLike, expected: str, remedy: str) -> dict[str, Any]:
    """The object in a JSON file, in UTF-8.

    Args:
        place: as in `reading`.
        file: as in `reading`.
        expected: as in `reading`.
        remedy: as in `reading`.

    Raises:
        ValueError: if it holds anything else.
    """
    refuse_substitute(place, file, expected)
    with reading(place, file, expected, remedy):
        found = json.loads(Path(file).read_text("utf-8-sig"))
    if not isinstance(found, dict):
        raise ValueMistake(f"{place} holds a {type(found).__name__}, expected {expected}: {remedy}")
    return found


def arrays_in(file: PathLike, wanted: Container[str]) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """Arrays of an .npz file, each compared with its checksum; for use inside `reading`.

    Args:
        file: the file.
        wanted: names of the arrays to read.

    Returns:
        the names of all arrays that it holds, and those of the wanted ones that are there.
    """
    found = {}
    with zipfile.ZipFile(file) as archive:
        _check_directory(archive, file)
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        for name, member in members.items():
            with archive.open(member) as content:  # compares the name in the directory with that of the part
                if name not in wanted:
                    continue
                found[name] = np.lib.format.read_array(content, allow_pickle=False)
                if content.read(1):  # here, at its end, the checksum is compared
                    raise ValueError(f"{name} goes on after its last value")
            if found[name].dtype.kind == "U":
                found[name].tolist()  # numpy takes any number for a character, Python none beyond Unicode
    return list(members), found


def array_in(file: PathLike) -> NDArray[Any]:
    """The array of an .npy file; for use inside `reading`."""
    # Mapped, so that a shape is believed only as far as the file reaches.
    mapped = np.lib.format.open_memmap(file, mode="r")
    if os.path.getsize(file) != mapped.offset + mapped.nbytes:
        raise ValueError(f"the file goes on after the last value of its shape {mapped.shape}")
    return np.array(mapped)


def refuse_wide_csv(place: str, file: PathLike, separator: str) -> None:
    """Refuse a table in text with more columns than `MOST_COLUMNS`, by its first line.

    Args:
        place: as in `reading`.
        file: the file.
        separator: between two columns.
    """
    with open(file, "rb") as content:
        header = next((line for line in content if not line.isspace()), b"")
    _refuse_wide(place, header.partition(b"\r")[0].count(separator.encode()) + 1)


def refuse_open_quote(file: PathLike, separator: str) -> None:
    """Refuse a table in text that ends inside of a quoted cell, as one that was cut off may: pyarrow reads such a cell.

    For use inside `reading`.

    Args:
        file: the file.
        separator: between two columns.
    """
    import pandas

    with open(file, "rb") as content:
        quotes = sum(part.count(b'"') for part in iter(lambda: content.read(2**20), b""))
    if quotes % 2:  # or else an inch is meant: pandas, which is slower, tells
        pandas.read_csv(file, sep=separator, header=None, usecols=[0], dtype=str, on_bad_lines="skip")


def parquet_in(place: str, file: PathLike) -> pyarrow.Table:
    """The table of a Parquet file, or of a folder of them, compared with its checksums; for use inside `reading`.

    Args:
        place: as in `reading`.
        file: the file; pages without a checksum, as most are, are read as they are.
    """
    from pyarrow import parquet

    packed = values = 0
    for part in [Path(file)] if os.path.isfile(file) else sorted(Path(file).rglob("*.parquet")):
        about = parquet.read_metadata(part)
        _refuse_wide(place, about.num_columns)
        packed += os.path.getsize(part)
        values += about.num_rows * about.num_columns
    refuse_trap(packed, _LEAST_CELL * values)
    table = parquet.read_table(file, page_checksum_verification=True)
    table.validate(full=True)  # words are UTF-8, and lists and words lie inside their columns
    return table


def unpacked_in(file: PathLike) -> bytes:
    """What a file in zlib's format holds, compared with its checksum; for use inside `reading`."""
    packed = Path(file).read_bytes()
    unpacker = zlib.decompressobj()
    found = unpacker.decompress(packed, _PACKED * len(packed))
    if not unpacker.eof:
        raise ValueError("it is cut off, or far larger inside than outside")
    return found


def saved_in(file: PathLike) -> Any:
    """What torch.save wrote of tensors and plain values, compared with its checksums; for use inside `reading`."""
    _check_saved(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def tensor_in(file: PathLike) -> Tensor:
    """The one tensor that torch.save wrote; for use inside `reading`."""
    found = saved_in(file)
    _refuse_odd("it", found)
    return found.detach()


def weights_in(place: str, file: PathLike, of: str) -> dict[str, Tensor]:
    """The state dict of a network: a file of it, or of a checkpoint in which timm finds one, averaged where there is.

    Args:
        place: as in `reading`.
        file: a .pt, .pth or .safetensors file.
        of: whose weights are expected.

    Raises:
        ValueError: if there is none, or a value in it is not finite.
    """
    from timm.models import load_state_dict

    with reading(place, file, f"the state dict of {of}", "give another file"):
        if not os.fspath(file).endswith(".safetensors"):
            _check_saved(file)
        found: dict[str, Tensor] = load_state_dict(os.fspath(file), weights_only=True)
        for name, value in found.items():
            _refuse_odd(name, value)
        broken = [name for name, value in found.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueMistake(
            f"{place} holds {len(broken)} tensors with values that are not finite, the first {broken[0]}, expected "
            "numbers: give the weights of a training that did not diverge"
        )
    return found


def refuse_trap(packed: int, whole: int) -> None:
    """Refuse what would take far more memory than the file that it comes in, as nothing that is worth reading does.

    Args:
        packed: bytes of the file.
        whole: bytes of what it says it holds.
    """
    if whole > max(_HURTS, _PACKED * packed):
        raise ValueError(f"its {packed:,} bytes would become {whole:,}, more than {_PACKED} times as many")


def _refuse_wide(place: str, columns: int) -> None:
    if columns > MOST_COLUMNS:
        raise ValueMistake(
            f"{place} has {columns:,} columns, expected at most {MOST_COLUMNS:,}, since each takes some kilobytes and "
            "a row is a sample: give so many numbers as an .npz file"
        )


def _check_directory(archive: zipfile.ZipFile, file: PathLike) -> None:
    """Refuse an archive that is larger inside than outside, or whose directory is not as long as its end says."""
    members, size = archive.infolist(), os.path.getsize(file)
    with open(file, "rb") as content:
        content.seek(-_END - len(archive.comment), os.SEEK_END)
        count = int.from_bytes(content.read(_END)[10:12], "little")
    if count not in (len(members), 0xFFFF):  # which stands for more
        raise ValueError(f"its directory lists {len(members)} of {count} parts")
    if sum(member.compress_size for member in members) > size:
        raise ValueError("its parts are together larger than the file, so that some overlap")
    refuse_trap(size, sum(member.file_size for member in members))


def _check_saved(file: PathLike) -> None:
    """Compare the checksums in what torch.save wrote; its older form, which is no archive, has none."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        _check_directory(archive, file)
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of its part {damaged} is another")


def _refuse_odd(name: str, value: object) -> None:
    """Refuse what is no tensor with all of its values in memory."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__} and no tensor")
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise TypeError(f"{name} is sparse, quantized or without values")
    refuse_trap(value.untyped_storage().nbytes(), value.numel() * value.element_size())  # by strides of 0
