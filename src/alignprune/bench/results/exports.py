"""Exports: what runs left for tables and figures, in three Parquet files that can be published.

    <out>/runs.parquet, epochs.parquet, rankings.parquet

The folders of runs hold weights and checkpoints, which are large, and whoever reads a table needs none of them. A
`Store` reads an export as it reads the folders, so tables and figures can be made again from what was published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from alignprune._files import write_sealed
from alignprune.bench.places import refuse_file, refuse_unwritable
from alignprune.bench.results.store import EXPORT_KIND, EXPORTED, MARK, SCHEMAS, Store, homes
from alignprune.errors import MissingFile, ValueMistake

_ORDER = {"runs": (), "epochs": ("epoch",), "rankings": ("ranking",)}  # of the rows of a run


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes:
        runs: number of runs in it.
        epochs: number of epochs.
        passed_over: of runs that several have, how many were passed over, by folder.
        unarchived: complete runs that are left out, since nobody has archived them, by folder.
        size: of the files in bytes.
    """

    runs: int
    epochs: int
    passed_over: dict[str, int]
    unarchived: dict[str, int]
    size: int


def export(folders: Sequence[Path], out: Path) -> Export:
    """Write an export.

    Args:
        folders: of runs, or of earlier exports. A run that several have is taken from the first of them.
        out: folder of the files; it need not be there.

    Returns:
        what is in it.

    Raises:
        FileNotFoundError: where there is no run.
        ValueError: if a file that is read is damaged, or if the export that is there would lose runs.
        OSError: if the files cannot be written; those that were there are left.
    """
    for folder in folders:
        refuse_file("runs", folder)
    refuse_unwritable("out", out)
    seen: set[str] = set()
    parts: dict[str, list[pa.Table]] = {view: [] for view in SCHEMAS}
    passed_over = {}
    unarchived = {str(folder): len(ended) for folder in folders if (ended := Store(folder).unarchived())}
    for folder in folders:
        tables = {view: Store(folder).table(view) for view in SCHEMAS}
        there = set(homes(tables["runs"]))
        if there & seen:
            passed_over[str(folder)] = len(there & seen)
        for view, table in tables.items():
            parts[view].append(table.filter(pa.array([home not in seen for home in homes(table)], pa.bool_())))
        seen |= there
    if not seen:
        many = sum(unarchived.values())
        found = f"{many} complete runs, none of them archived" if many else "no complete run"
        raise MissingFile(
            f"runs={[str(folder) for folder in folders]} has {found}, expected one at least: "
            f"{'sweep again, which archives them' if many else 'sweep first'}"
        )
    _refuse_loss(out, seen)
    whole = {view: _whole(view, tables) for view, tables in parts.items()}
    mark = _digest(whole.values())
    out.mkdir(parents=True, exist_ok=True)
    for view, table in whole.items():
        write_sealed(out / EXPORTED[view], EXPORT_KIND, partial(_write, table, mark))
    size = sum((out / name).stat().st_size for name in EXPORTED.values())
    return Export(len(seen), whole["epochs"].num_rows, passed_over, unarchived, size)


def _refuse_loss(out: Path, taken: set[str]) -> None:
    """Refuse to replace an export by one that lacks some of its runs."""
    lost = len(Store(out).exported() - taken)
    if lost:
        raise ValueMistake(
            f"out={str(out)!r} has an export with {lost} runs that would be lost, expected them among the new ones: "
            f"name it in --runs too, or choose another folder"
        )


def _whole(view: str, parts: list[pa.Table]) -> pa.Table:
    """The parts as one table, by run; columns that a part lacks are null in its rows."""
    try:
        table = pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueMistake(
            f"runs disagree on the type of a column of {view} ({error}), expected one type: export each folder by "
            f"itself"
        ) from error
    return table.sort_by([(name, "ascending") for name in ("protocol", "cell", "seed", *_ORDER[view])])


def _digest(tables: Iterable[pa.Table]) -> bytes:
    """What the files of one export have in common, and those of another have not."""
    total = hashlib.sha256()
    for table in tables:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.combine_chunks())
        total.update(sink.getvalue())
    return total.hexdigest()[:16].encode()


def _write(table: pa.Table, mark: bytes, file: IO[bytes]) -> None:
    """The table, as small as it gets: it is written once and loaded often. Dictionaries of measurements are long."""
    sealed = table.replace_schema_metadata({MARK: mark, b"seal": EXPORT_KIND.blank.encode()})
    pq.write_table(sealed, file, compression="zstd", compression_level=19, use_dictionary=False)
