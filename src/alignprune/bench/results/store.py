"""Where results are found again: Parquet files in every run's folder, DuckDB over all of them.

    <root>/<protocol>/<slug>-<key>/seed<k>/run.parquet       one row: what ran, its settings (config.*), its result
                                           epochs.parquet    a row an epoch
                                           rankings.parquet  a row a way to rank its labels, of runs that can be ranked

    <root>/runs.parquet, epochs.parquet, rankings.parquet    the same of many runs, as `exports.export` writes them

A folder says which run it is and its files say the same, so no run is counted twice: a copy is refused, wherever it is.
A run that was exported and has a folder too is read from its folder.
Writers share no file and replace theirs whole, so any number of them work while others read.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from alignprune._checks import choice
from alignprune._files import Kind, check_seal, write_sealed
from alignprune.bench.files import read_record
from alignprune.bench.grid.cells import JOB, JOB_KIND
from alignprune.bench.results import rankings
from alignprune.bench.results.detection import RankingRecord
from alignprune.bench.run.folder import CONFIG, RESULT, read_config, read_metrics, read_result
from alignprune.bench.run.record import EpochRecord, RunRecord
from alignprune.errors import DamagedFile, MissingFile, ValueMistake

_Row = dict[str, Any]
_Answer = TypeVar("_Answer")

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _fields(record: type, prefix: str = "") -> list[tuple[str, pa.DataType]]:
    """Name and type of each column that a record fills; those of a record in it have its name and a dot in front."""
    found: list[tuple[str, pa.DataType]] = []
    for name, hint in get_type_hints(record).items():
        kind = next(part for part in (*get_args(hint), hint) if part is not type(None))
        if isinstance(kind, type) and is_dataclass(kind):
            found += _fields(kind, f"{prefix}{name}.")
        else:
            found.append((prefix + name, _TYPES[kind]))
    return found


def _schema(record: type) -> pa.Schema:
    """The columns that say which run it is and in which folders it belongs, and those of the record."""
    identity = [("key", pa.string()), ("protocol", pa.string()), ("cell", pa.string()), ("seed", pa.int64())]
    return pa.schema(identity + [column for column in _fields(record) if column[0] != "seed"])


# The columns that every file has and their types, so that a column keeps its type where all its values are null.
# Files may have more: the settings as config.*, and whatever else a result or an epoch's metrics hold.
SCHEMAS = {"runs": _schema(RunRecord), "epochs": _schema(EpochRecord), "rankings": _schema(RankingRecord)}
RUN, EPOCHS, RANKINGS = "run.parquet", "epochs.parquet", "rankings.parquet"
_FILES = {"runs": RUN, "epochs": EPOCHS, "rankings": RANKINGS}
EXPORTED = {"runs": "runs.parquet", "epochs": EPOCHS, "rankings": RANKINGS}
MARK = b"export"  # in the metadata of the exported files: which belong together
EXPORT_KIND = Kind("export", 1, "take an undamaged copy, or export the runs again")
_RANKERS = b"rankers"  # in the metadata of RANKINGS: who was asked
_KIND = Kind("archive", 1, "remove it, and write it anew with alignprune.bench.results.store.archive(its folder)")


def archive(folder: Path) -> None:
    """Write the Parquet files into the folder of a complete run, each whole or not at all, ``run.parquet`` last.

    Args:
        folder: with job.json, config.json and result.json; a run without metrics.jsonl has no epochs, and one without
            a trace or probabilities no rankings.

    Raises:
        FileNotFoundError: if one of the three is missing: the run is not complete.
        ValueError: if a file is damaged, or is that of a run that belongs into another folder.
        ImportError: if a ranking needs a library that is not installed.
    """
    for name in (JOB, CONFIG, RESULT):
        if not (folder / name).exists():
            raise MissingFile(
                f"folder={str(folder)!r} is without {name}, expected a complete run: archive it when it has ended"
            )
    job, config, result = read_record(folder / JOB, JOB_KIND), read_config(folder), read_result(folder)
    identity = {name: job.get(name) for name in ("key", "protocol", "cell", "seed")}
    _check_place(folder, identity, result)
    _write("epochs", [identity | row for row in read_metrics(folder)], folder)
    if rankings.can_be_ranked(folder):
        _write("rankings", [asdict(record) | identity for record in rankings.judged(folder)], folder)
    _write("runs", [_flat(result) | _flat(config, "config.") | identity], folder)


def is_archived(folder: Path) -> bool:
    """Whether `archive` has been here since the run was complete, and has asked all rankers that there are today."""
    if not all(_is_sound(folder / name) for name in (RUN, EPOCHS)):
        return False
    if not rankings.can_be_ranked(folder):
        return True
    return _is_sound(folder / RANKINGS) and (pq.read_schema(folder / RANKINGS).metadata or {}).get(_RANKERS) == _asked()


def _is_sound(file: Path) -> bool:
    try:
        check_seal(file, _KIND)
    except (MissingFile, DamagedFile, ValueMistake):
        return False
    return True


def _all_sound(files: Iterable[Path]) -> bool:
    """Whether there are files; DuckDB reads them by itself, and would not see what has changed in them."""
    found = False
    for file in files:
        check_seal(file, _KIND)
        found = True
    return found


def _asked() -> bytes:
    """The names of today's rankers."""
    return json.dumps(sorted(rankings.RANKERS)).encode()


def homes(table: pa.Table) -> list[str]:
    """Of every row which run it is about, protocol/cell/seed<k>."""
    names = zip(*(table.column(name).to_pylist() for name in _IDENTITY), strict=True)
    return [f"{protocol}/{cell}/seed{seed}" for protocol, cell, seed in names]


class _Scope(NamedTuple):
    """Which runs are read.

    Attributes:
        folders: patterns of their folders, below the root.
        where: the same in SQL, for runs that were exported.
    """

    folders: list[str]
    where: str


_ALL = _Scope(["*/*/*"], "true")


class Store:
    """The archived runs under a root folder; every call reads what is there at that moment.

    Args:
        root: folder of the protocols' folders, or of an export, or of both. It need not exist yet: then there are no
            runs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[_Row]:
        """Ask anything of the views ``runs`` (a row a run), ``epochs`` (a row an epoch of a run) and ``rankings``.

        Every call opens the files of all runs; what concerns few cells is faster by `runs`, `epochs` and `values`.

        Args:
            sql: in DuckDB's dialect. Names with dots stand in quotes: ``SELECT "config.recipe.lr", seed FROM runs``.
                The column ``folder`` is the run's folder, NULL for a run that was exported.
            parameters: values for the ``?`` in it.

        Returns:
            the rows, values by column.

        Raises:
            ValueError: if a file under the root is damaged, or not that of its folder's run; the message names it.
            FileNotFoundError: if a file of an export is missing.
            duckdb.Error: if the query is wrong.
        """
        return self._ask(sql, parameters, _ALL)

    def exported(self) -> set[str]:
        """The runs of the export, each as protocol/cell/seed<k>; none where there is no export."""
        if not self._has_export():
            return set()
        return set(homes(pq.read_table(self.root / EXPORTED["runs"], columns=list(_IDENTITY))))

    def unarchived(self) -> list[Path]:
        """The folders of complete runs that `archive` has not been to: nothing else here sees them."""
        folders = [file.parent for file in sorted(self.root.glob(f"*/*/*/{JOB}"))]
        return [folder for folder in folders if (folder / RESULT).exists() and not (folder / RUN).exists()]

    def table(self, view: str) -> pa.Table:
        """A whole view in its own types, in no order, without the column ``folder``.

        Args:
            view: a name of `SCHEMAS`.
        """
        sql = f"SELECT * EXCLUDE (folder) FROM {view}"
        return self._open(sql, _ALL, lambda connection: connection.sql(sql).to_arrow_table())

    def runs(self, keys: Iterable[str], protocol: str) -> list[_Row]:
        """The runs of cells, as `query` gives them, ordered by key and seed.

        Args:
            keys: keys of cells.
            protocol: name of the protocol that they ran under.
        """
        return self._ask("SELECT * FROM runs ORDER BY key, seed", (), self._of_cells(keys, protocol))

    def epochs(self, keys: Iterable[str], protocol: str) -> list[_Row]:
        """The epochs of cells' runs, as `query` gives them, ordered by key, seed and epoch; arguments as in `runs`."""
        return self._ask("SELECT * FROM epochs ORDER BY key, seed, epoch", (), self._of_cells(keys, protocol))

    def values(
        self, keys: Iterable[str], measures: Iterable[str], protocol: str
    ) -> dict[tuple[str, str], dict[int, float | None]]:
        """What cells measured.

        Args:
            keys: keys of cells.
            measures: columns of ``runs`` that hold numbers.
            protocol: name of the protocol that they ran under.

        Returns:
            by (key, measure) the value of each seed that ran, None where a run has no such value.

        Raises:
            ValueError: for a measure that the runs do not have, with the nearest.
        """
        keys, measures = list(keys), list(measures)
        scope = self._of_cells(keys, protocol)
        if not set(measures) <= set(SCHEMAS["runs"].names):
            known = [column["column_name"] for column in self._ask("DESCRIBE runs", (), scope)]
            for measure in measures:
                choice("measure", measure, known)
        columns = ", ".join(f'"{measure}"' for measure in measures)
        found: dict[tuple[str, str], dict[int, float | None]] = {(key, name): {} for key in keys for name in measures}
        for row in self._ask(f"SELECT key, seed, {columns} FROM runs ORDER BY key, seed", (), scope):
            for measure in measures:
                found[row["key"], measure][row["seed"]] = row[measure]
        return found

    def rankings(
        self, keys: Iterable[str], measures: Iterable[str], protocol: str
    ) -> dict[tuple[str, str, str], dict[int, float | None]]:
        """How rankings of the labels did in cells' runs.

        Args:
            keys: keys of cells.
            measures: fields of `RankingRecord`.
            protocol: name of the protocol that they ran under.

        Returns:
            by (key, ranking, measure) the value of each seed that was ranked so, None where there is no such value.
        """
        columns = list(measures)
        found: dict[tuple[str, str, str], dict[int, float | None]] = {}
        for row in self._ask("SELECT * FROM rankings ORDER BY key, seed", (), self._of_cells(keys, protocol)):
            for column in columns:
                found.setdefault((row["key"], row["ranking"], column), {})[row["seed"]] = row[column]
        return found

    def _of_cells(self, keys: Iterable[str], protocol: str) -> _Scope:
        """The runs of cells."""
        wanted = set(keys)
        cells = [cell.name for cell in (self.root / protocol).glob("*-*") if cell.name.rpartition("-")[2] in wanted]
        where = f"protocol = {_text(protocol)} AND list_contains({_literal(sorted(wanted))}, key)"
        return _Scope([f"{protocol}/{glob.escape(cell)}/*" for cell in cells], where)

    def _ask(self, sql: str, parameters: Sequence[Any], scope: _Scope) -> list[_Row]:
        return self._open(sql, scope, lambda connection: _rows(connection.execute(sql, parameters)))

    def _open(self, sql: str, scope: _Scope, read: Callable[[duckdb.DuckDBPyConnection], _Answer]) -> _Answer:
        """What is read of a connection that has the views that the query names."""
        exported = self._has_export()
        with duckdb.connect() as connection:
            try:
                for view in SCHEMAS:
                    if view in sql.lower():  # making one opens its files, so only what the query names is made
                        self._make(view, scope, exported, connection)
                return read(connection)
            except (duckdb.InvalidInputException, duckdb.IOException) as error:
                said = str(error).splitlines()[0]
                if _MISPLACED in said:
                    remedy = "It is a copy, or was renamed, and would be counted as a run of its own: remove it, or "
                    remedy += "give it its name back"
                else:
                    remedy = (
                        "Remove that file, or write it anew with alignprune.bench.results.store.archive(its folder)"
                    )
                raise ValueMistake(f"the runs under {self.root} cannot be read: {said}. {remedy}") from error

    def _has_export(self) -> bool:
        """Whether an export is there; refused if it is not whole."""
        files = [self.root / name for name in EXPORTED.values()]
        there = [file for file in files if file.exists()]
        for file in there:
            check_seal(file, EXPORT_KIND)
        if there and len(there) < len(files):
            (missing, *_) = [file.name for file in files if file not in there]
            raise MissingFile(
                f"{missing} is missing in {self.root}, expected it beside {there[0].name}, since together they are an "
                f"export: {EXPORT_KIND.remedy}"
            )
        if len({(pq.read_schema(file).metadata or {}).get(MARK) for file in there}) > 1:
            raise DamagedFile(
                f"{', '.join(EXPORTED.values())} in {self.root} are of different exports, expected those of one: "
                f"{EXPORT_KIND.remedy}"
            )
        return bool(there)

    def _in_folders(self, scope: _Scope) -> list[str]:
        """The runs that have a folder of their own, each as protocol/cell/seed<k>."""
        found = (file.parent for folder in scope.folders for file in self.root.glob(f"{folder}/{RUN}"))
        return [folder.relative_to(self.root).as_posix() for folder in found]

    def _make(self, view: str, scope: _Scope, exported: bool, connection: duckdb.DuckDBPyConnection) -> None:
        """Define a view over these runs' files; the columns that every file has are there without files."""
        connection.register(f"no_{view}", SCHEMAS[view].empty_table())
        patterns = [f"{folder}/{_FILES[view]}" for folder in scope.folders]
        found = [pattern for pattern in patterns if _all_sound(self.root.glob(pattern))]
        rows = f"SELECT *, NULL::VARCHAR AS folder FROM no_{view}"
        if found:
            paths = [f"{glob.escape(str(self.root))}/{pattern}" for pattern in found]
            rows += f"""
                UNION ALL BY NAME
                SELECT * EXCLUDE (filename), regexp_replace(filename, '/[^/]*$', '') AS folder
                FROM read_parquet({_literal(paths)}, union_by_name = true, filename = true)"""
        placed = f"SELECT * FROM ({rows}) WHERE {_IN_PLACE}"
        if exported:
            file = glob.escape(str(self.root / EXPORTED[view]))
            own = _literal(self._in_folders(scope))
            placed += f"""
                UNION ALL BY NAME
                SELECT * FROM read_parquet({_literal([file])})
                WHERE {scope.where} AND NOT list_contains({own}, {_HOME})"""
        connection.execute(f"CREATE VIEW {view} AS {placed}")


def _rows(answer: duckdb.DuckDBPyConnection) -> list[_Row]:
    names = [column[0] for column in answer.description]
    return [dict(zip(names, values, strict=True)) for values in answer.fetchall()]


_IDENTITY = ("protocol", "cell", "seed")
_HOME = "protocol || '/' || cell || '/seed' || seed"  # NULL where a file does not say
_MISPLACED = "is not the folder of its run"

# True, or an error that names the folder whose files are those of another run.
_IN_PLACE = f"""
    CASE WHEN coalesce(ends_with(folder, '/' || {_HOME}) AND ends_with(cell, '-' || key), false)
    THEN true ELSE error(folder || ' {_MISPLACED}, which is ' || coalesce({_HOME}, 'not said')) END
"""


def _literal(texts: Iterable[str]) -> str:
    """A list of texts in SQL: a view takes no parameters."""
    return f"[{', '.join(map(_text, texts))}]::VARCHAR[]"


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _check_place(folder: Path, identity: _Row, result: _Row) -> None:
    """Refuse a run in another run's folder: it would be counted as that one."""
    place = folder.resolve()
    home = Path(str(identity["protocol"]), str(identity["cell"]), f"seed{identity['seed']}")
    if place.parts[-3:] != home.parts or not home.parent.name.endswith(f"-{identity['key']}"):
        raise ValueMistake(
            f"job.json in {folder} says that the run with the key {identity['key']} belongs in {home}, expected it "
            f"there: if this is a copy remove it, if it was renamed give it its name back"
        )
    if result.get("seed", identity["seed"]) != identity["seed"]:
        raise ValueMistake(
            f"result.json in {folder} has seed {result['seed']}, job.json has {identity['seed']}: run the job again"
        )


def _flat(record: _Row, prefix: str = "") -> _Row:
    """Nested names joined by dots; lists as JSON text."""
    flat: _Row = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _write(view: str, rows: list[_Row], folder: Path) -> None:
    schema = SCHEMAS[view]
    others = dict.fromkeys(name for row in rows for name in row if name not in schema.names)
    columns = {}
    for name in [*schema.names, *others]:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values, schema.field(name).type if name in schema.names else None)
        except pa.ArrowException as error:
            raise ValueMistake(
                f"{name}={values!r} in {folder} cannot be stored ({error}), expected values of one type: run it again"
            ) from error
    asked = {_RANKERS: _asked()} if view == "rankings" else {}
    table = pa.table(columns).replace_schema_metadata({**asked, b"seal": _KIND.blank.encode()})
    write_sealed(folder / _FILES[view], _KIND, lambda file: pq.write_table(table, file))
