"""What the model of a finished run says of samples: a class and how sure it is, a row a sample, as a table.

id               what the source calls the sample
predicted_label  the class with the largest logit
confidence       its softmax probability, in [0, 1]
given_label      where the source has labels; empty for a sample without
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from alignprune._checks import choice
from alignprune._files import replace_file
from alignprune.audit.decisions import as_written
from alignprune.bench.data import raw
from alignprune.bench.data.embedding.contract import Progress as EmbeddingProgress
from alignprune.bench.files import save_bytes
from alignprune.bench.places import refuse_unwritable
from alignprune.bench.run import trained
from alignprune.bench.run.evaluation import BATCH_SIZE
from alignprune.errors import ExistingFile

_AUTOCAST = {"16": torch.float16, "bf16": torch.bfloat16}
_FORMS = (".csv", ".parquet")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of N samples.

    Attributes:
        part: what of the source the samples are.
        ids, labels, confidences, given: N values each, as the columns above.
        known: how many have a given label that is a class of the model.
        unknown: how many have a given label that is none.
        accuracy: share of the known ones whose prediction is the given label; None without.
    """

    part: str
    ids: Sequence[str]
    labels: Sequence[str]
    confidences: Sequence[float]
    given: Sequence[str | None]
    known: int
    unknown: int
    accuracy: float | None

    def columns(self) -> dict[str, Sequence[Any]]:
        """The table by its columns, without given_label where no sample has one."""
        columns: dict[str, Sequence[Any]] = {
            "id": self.ids,
            "predicted_label": self.labels,
            "confidence": self.confidences,
        }
        return columns | ({"given_label": self.given} if any(name is not None for name in self.given) else {})


def check_out(path: Path) -> None:
    """Refuse a file that is there or cannot be, and a form that is not written, before anything is read."""
    choice("suffix", path.suffix, _FORMS)
    if path.exists():
        raise ExistingFile(f"out={str(path)!r} is there already, expected a new file: choose another with --out")
    refuse_unwritable("out", path.parent)


def predict(
    run: Path, source: str, device: torch.device, workers: int = 0, progress: EmbeddingProgress | None = None
) -> Predictions:
    """Ask the model of a run about the samples of a source.

    Args:
        run: folder of a finished run.
        source: as for `alignprune.bench.data.raw.read`.
        device: where to compute.
        workers: loader processes.
        progress: called with the samples done and all while they are embedded, for a run on features.

    Raises:
        FileNotFoundError, ValueError: if there is no such run or source, or the samples are of another kind.
        ImportError: if what the run's features need is not installed.
        RuntimeError: if the run is not finished.
    """
    network, about = trained.load(run)
    found = raw.read(source, about.preparation, about.class_names, progress)
    loader = DataLoader(found.samples, batch_size=BATCH_SIZE, num_workers=workers)
    labels, confidences, given = [], [], []
    network = network.to(device)
    with torch.no_grad():
        for x, y in loader:
            probable, label = _forward(network, x.to(device), about.precision).softmax(1).max(1)
            labels.append(label.cpu())
            confidences.append(probable.cpu())
            given.append(y)
    said, truth = torch.cat(labels), torch.cat(given)
    known = truth != raw.UNKNOWN
    right = int((said == truth).sum())
    size = int(known.sum())
    return Predictions(
        part=found.part,
        ids=found.ids,
        labels=[about.class_names[i] for i in said.tolist()],
        confidences=torch.cat(confidences).tolist(),
        given=found.given,
        known=size,
        unknown=sum(name is not None for name in found.given) - size,
        accuracy=right / size if size else None,
    )


def _forward(network: nn.Module, x: torch.Tensor, precision: str) -> torch.Tensor:
    """Logits in the precision that the run was judged in, float32 [B, C]."""
    dtype = _AUTOCAST.get(precision)
    with torch.autocast(x.device.type, dtype=dtype, enabled=dtype is not None):
        logits: torch.Tensor = network(x)
    return logits.float()


def write(found: Predictions, path: Path) -> None:
    """Write the table, as CSV or Parquet by the suffix, whole or not at all."""
    columns = {
        name: [as_written(value) if isinstance(value, str) else value for value in values]
        for name, values in found.columns().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        replace_file(path, lambda file: parquet.write_table(pyarrow.table(dict(columns)), file))
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    save_bytes(path, text.getvalue().encode())
