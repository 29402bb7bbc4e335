"""Measured before `evidence`, and still cited: the paper's ResNet-18 at half of the passes, and scores by batches.

At half of the forward passes every method trains on exactly as many samples; full training is there twice, over all of
its epochs and stopped at the same number of samples. The oracle trains on the samples with right labels alone: the
bound that no method can know. How `robust` was chosen, partly by such test sets, is said in
`docs/how-it-was-chosen.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from alignprune.bench.grid.cells import Cell, Protocol, Settings, title_of

_HALF = {"prune_ratio": 0.5, "budget": "equal"}
_REFERENCE = {"reference_size": 10_000}
_TRACED = {"trace": True, "reference": "clean", **_REFERENCE}  # with the reference that the paper's score needs

_IMAGES = {"dataset": "cifar100n", "recipe.epochs": 30, "precision": "bf16", "workers": 4, "evaluate_every": 10}
_FEATURES = {"model": "mlp", "recipe": "features", "device": "cpu", "evaluate_every": 30}
_NOISES: dict[str, Settings] = {
    "clean": {"noise": "clean"},
    "real": {"noise": "real"},
    "sym_0.4": {"noise": "symmetric", "noise_rate": 0.4},
    "sym_0.5": {"noise": "symmetric", "noise_rate": 0.5},
}


@dataclass(frozen=True)
class _Data:
    """A data set.

    Attributes:
        block: what the table calls it.
        protocol: the only one that has it.
        columns: noises.
        settings: of its runs.
    """

    block: str
    protocol: str
    columns: tuple[str, ...]
    settings: Settings


_PHOTOS = _Data("CIFAR-100N, images", "short", ("real", "clean"), _IMAGES)
_PHOTOS_MADE_WRONG = _Data("CIFAR-100, images", "short", ("sym_0.4",), _IMAGES)
_WORDS = _Data(
    "NEWS, 20 groups, word vectors", "cpu", ("clean", "sym_0.5"), {**_FEATURES, "dataset": "news20-document"}
)
_PHOTOS_AS_FEATURES = _Data(
    "CIFAR-100N, features", "cpu", ("real", "clean"), {**_FEATURES, "dataset": "cifar100n-features"}
)

FULL, STOPPED, ROBUST, ORACLE = title_of("full"), f"{title_of('full')}, stopped", title_of("robust"), "Oracle"

_COMPARED: dict[str, Settings] = {
    FULL: {"method": "full"},
    STOPPED: {"method": "full", **_HALF},
    title_of("infobatch+das"): {"method": "infobatch+das", **_HALF, **_REFERENCE},
    ROBUST: {"method": "robust", **_HALF},
    ORACLE: {"method": "full", "oracle": True, **_HALF},
}
_BY_LOSS: dict[str, Settings] = {
    title_of(name): {"method": name} for name in ("full", "infobatch", "infobatch+bls", "seta", "seta+bls")
}


def comparison(protocol: Protocol) -> tuple[Cell, ...]:
    """The methods at half of the forward passes, below full training, which is traced where people gave the labels."""
    return tuple(
        replace(cell, settings={**cell.settings, **_TRACED}) if (cell.row, cell.column) == (FULL, "real") else cell
        for cell in _cells(protocol, _PHOTOS, _COMPARED)
    )


def unseen(protocol: Protocol) -> tuple[Cell, ...]:
    """The same under noise that `robust` was not designed on."""
    return _cells(protocol, _PHOTOS_MADE_WRONG, {row: _COMPARED[row] for row in (STOPPED, ROBUST, ORACLE)})


def batch_losses(protocol: Protocol) -> tuple[Cell, ...]:
    """What a score costs that has the mean losses of batches only, as in its paper each method with its own share."""
    return (*_cells(protocol, _WORDS, _BY_LOSS), *_cells(protocol, _PHOTOS_AS_FEATURES, _BY_LOSS))


def _cells(protocol: Protocol, data: _Data, rows: Mapping[str, Settings]) -> tuple[Cell, ...]:
    """The rows under every noise of the data; no oracle where all labels are right, nothing in another protocol."""
    if protocol.name != data.protocol:
        return ()
    return tuple(
        Cell(data.block, row, column, {**data.settings, **_NOISES[column], **settings})
        for column in data.columns
        for row, settings in rows.items()
        if row != ORACLE or column != "clean"
    )
