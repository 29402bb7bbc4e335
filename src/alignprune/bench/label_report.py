"""The label report of a finished run, and of data that is trained on first: what `alignprune audit` does.

label_issues.parquet, .csv   a row a sample (`alignprune.audit.table`)
summary.json                 what holds of all of them (`alignprune.audit.summary`)
report.html                  the page to look at the suspects and to decide
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from torch.utils.data import Subset
from tyro.conf import Positional, arg

import alignprune
from alignprune import audit, losses
from alignprune._checks import choice, integer
from alignprune._files import replace_file
from alignprune.audit import page
from alignprune.audit.decisions import as_cell
from alignprune.audit.table import judged_table
from alignprune.bench import commands
from alignprune.bench.data import ClassificationData, Samples, TensorData, embedding
from alignprune.bench.data.embedding import raw
from alignprune.bench.files import write_json
from alignprune.bench.places import refuse_unwritable
from alignprune.bench.recipes import Recipe
from alignprune.bench.run import data, stored, trace
from alignprune.bench.run.config import TrainConfig, default_config
from alignprune.bench.run.folder import CONFIG, NOISE, RESULT, read_checkpoint, read_result
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.settings import Device
from alignprune.errors import ExistingFile, ValueMistake
from alignprune.noise import NoisyLabels

if TYPE_CHECKING:
    import pandas as pd

FILES = ("label_issues.parquet", "label_issues.csv", "summary.json", "report.html")

_IMAGE_SIDE = 64  # pixels of the photos that a small network is trained on, where there are no pretrained weights
_HOLDOUT = 0.1
_SHOWN_SIDE = 96  # pixels to which small pictures are enlarged
_FEWEST_STEPS, _MOST_EPOCHS = 1_000, 100

Features = Literal["auto", "none", "pretrained", "sentences", "tfidf"]


@dataclass(frozen=True)
class AuditConfig:
    """Find the labels that are probably wrong: train on the data, or take a finished run, and write the label report.

    Attributes:
        source: the folder of a finished run of train; or data: a folder with a subfolder a class (with or without train
            and test), a .csv, .tsv or .parquet file with a column label, an .npz file, hf:NAME_OR_PATH, or a named
            data set.
        out: folder of the report; None = report in the folder of the run, or audits/NAME, whose run is the run that was
            trained.
        rows: suspects that the page shows, at most.
        labels: decisions.csv of an earlier report on the same data: trains on the labels as they were decided.
        holdout: share of the samples that is held out to judge the network by; None = a tenth where there are no test
            samples. Their labels are as noisy as the others.
        features: what is trained on: "auto" takes features of a pretrained network for images where weights are given
            or installed, sentence vectors or word counts for texts, and else the samples themselves.
        feature_weights: file of weights of the pretrained network for images.
        feature_model: name of that network in timm.
        sentence_model: folder of a sentence model for texts.
        image_size: height and width of photos.
        epochs: of the training; None = the recipe's, or more for little data.
        loss: loss of the training that resists wrong labels, such as "elr-cifar10"; None = cross-entropy.
        noise: kind of wrong labels to plant in data whose labels are right, for a test, such as "symmetric".
        noise_rate: how many of the labels to make wrong, in [0, 1].
        seed: of the training.
        device: where to train.
        workers: loader processes.
        data_root: folder of the named data sets; None = the environment variable ALIGNPRUNE_DATA.
    """

    source: Annotated[str, Positional, arg(metavar="DATA_OR_RUN")]
    out: Path | None = None
    rows: int = 2_000
    labels: Path | None = None
    holdout: float | None = None
    features: Features = "auto"
    feature_weights: Path | None = None
    feature_model: str | None = None
    sentence_model: Path | None = None
    image_size: int | None = None
    epochs: int | None = None
    loss: str | None = None
    noise: str | None = None
    noise_rate: float | None = None
    seed: int = 0
    device: Device = "auto"
    workers: int = 0
    data_root: Path | None = None

    def __post_init__(self) -> None:
        integer("rows", self.rows, at_least=1, remedy="2000 make a page of some megabytes")
        if self.loss is not None:
            choice("loss", self.loss, tuple(losses.LOSSES))


@dataclass(frozen=True, eq=False)
class Report:
    """A label report that was written.

    Attributes:
        folder: that holds it.
        table: a row a sample.
        summary: what holds of all of them.
    """

    folder: Path
    table: pd.DataFrame
    summary: dict[str, Any]


def run(config: AuditConfig, progress: Progress | None = None, say: Callable[[str], None] = print) -> Report:
    """Train, unless a finished run is given, and write the report. A call after an interruption goes on.

    Args:
        config: what is asked for.
        progress: hears of every step and epoch.
        say: gets a line of text on what is done.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: before anything is written, with what to do.
    """
    given = Path(config.source)
    if (given / CONFIG).is_file():
        _refuse_settings(config)
        return report(given, config.out or given / "report", rows=config.rows, data_root=config.data_root, say=say)
    out = config.out or Path("audits") / _stem(config.source)
    _refuse_out(out)
    training, reason = _training(config, out / "run", progress)
    if training.data.features == "none":  # a run on features says itself what they are
        say(reason)
    commands.train(training, progress)
    return report(out / "run", out, rows=config.rows, data_root=config.data_root, say=say)


def of_frame(frame: pd.DataFrame, out: Path, **settings: Any) -> Report:
    """Train on a pandas frame and write the report; the frame is stored beside it, so that the run can be repeated.

    Args:
        frame: a row a sample: a column label, and path, text or columns of numbers, as `bench.data.table` reads them.
        out: folder of the report; made if absent.
        settings: others of `AuditConfig`, by name.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: with what to do.
    """
    _refuse_out(out)
    file = out / "data.parquet"
    if file.exists() and not _stored_frame(file).equals(frame.reset_index(drop=True)):
        raise ExistingFile(f"out={str(out)!r} holds another data.parquet, expected a new folder: choose another")
    there = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        replace_file(file, lambda target: frame.to_parquet(target, index=False))
        return run(AuditConfig(str(file), out=out, **settings))
    except Exception:
        if not (out / "run").exists():  # refused before the training: nothing is left
            file.unlink(missing_ok=True)
            if not there:
                out.rmdir()
        raise


def report(
    folder: Path,
    out: Path,
    *,
    rows: int = 2_000,
    data_root: Path | None = None,
    say: Callable[[str], None] = print,
) -> Report:
    """Write the label report of a finished run.

    Args:
        folder: the run's.
        out: folder of the report; made if absent.
        rows: suspects that the page shows, at most.
        data_root: of named data sets, where it is another one now; None = as in the run.
        say: gets a line of text on what is done.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: before anything is written, with what to do.
    """
    _refuse_out(out)
    result, state = _finished(folder)
    config = stored.from_file(folder / CONFIG)
    if data_root is not None:
        config = config.with_settings(data_root=data_root)
    samples = data.unembedded(config)
    labels = _labels(folder, samples)
    known = audit.facts(state)
    _refuse_part(folder, len(known.suspicion), len(samples.labels))
    frame, judged, names = judged_table(
        known, labels, class_names=samples.class_names, ids=samples.ids, places=samples.places
    )
    found = audit.summary(
        frame,
        known,
        judged,
        names,
        name=samples.name,
        accuracy=audit.Accuracy(result["accuracy"], result["evaluated_on"]),
        decided=config.data.labels is not None,
        run={
            "method": result["method"],
            "epochs": result["epochs"],
            "model": result["model"],
            "seed": result["seed"],
            "date": datetime.now(timezone.utc).date().isoformat(),
            "version": alignprune.__version__,
        },
    )
    trajectories = _trajectories(folder, frame, labels, rows)
    out.mkdir(parents=True, exist_ok=True)
    say(f"writing the report of {len(frame):,} samples")
    _write(out, frame, found, samples, trajectories, rows)
    return Report(out, frame, found)


# -- what to train -----------------------------------------------------------------------------------------


def _training(config: AuditConfig, folder: Path, progress: Progress | None) -> tuple[TrainConfig, str]:
    """What fits the data, and a line that says why; `progress` hears of a data set that comes as features."""
    plain = default_config(config.source, "robust").with_settings(
        **_given(config, "noise", "noise_rate", "holdout", "image_size", "seed", "device", "workers", "data_root")
    )
    samples = data.unembedded(plain, progress)
    if samples.test is None and config.holdout is None:
        plain = plain.with_settings(holdout=_HOLDOUT)
    features, reason = config.features, f"trained on: {config.features}"
    if features == "auto":
        chosen = embedding.choose_embedder(
            samples, config.feature_weights, config.sentence_model, config.feature_model, config.image_size
        )
        features, reason = _KINDS[type(chosen.embedder)], chosen.reason
    settings = _given(config, "feature_weights", "feature_model", "sentence_model", "labels")
    made = default_config(config.source, "robust", features=features)
    changes: dict[str, Any] = {"recipe": made.recipe, "features": features, "trace": True, "out": folder, **settings}
    if features == "none" and raw.modality(samples.train_eval) == "images":
        changes["model"] = "resnet-small"
        if config.image_size is None and not isinstance(_base(samples.train_eval), TensorData):
            changes["image_size"] = _IMAGE_SIDE
    elif features == "none":
        changes["recipe"] = default_config(config.source, "robust", "features").recipe
    epochs = config.epochs or _epochs(changes["recipe"], len(samples.labels))
    changes["recipe"] = replace(changes["recipe"], epochs=epochs)
    if config.loss is not None:
        changes["loss"] = losses.get(config.loss).settings
    resume = (folder / CONFIG).exists()
    return plain.with_settings(**changes, resume=resume), reason


def _epochs(recipe: Recipe, samples: int) -> int:
    """The recipe's, or more for little data, whose few steps would leave the network too unsure to judge."""
    steps = max(1.0, samples / 2 / recipe.batch_size)  # an epoch trains on half of the samples
    return max(recipe.epochs, min(_MOST_EPOCHS, math.ceil(_FEWEST_STEPS / steps)))


_KINDS: dict[type, Literal["none", "pretrained", "sentences", "tfidf"]] = {
    type(None): "none",
    embedding.TimmEmbedder: "pretrained",
    embedding.SentenceEmbedder: "sentences",
    embedding.Tfidf: "tfidf",
}


def _given(config: AuditConfig, *names: str) -> dict[str, Any]:
    """The settings that were given, by name."""
    return {name: value for name in names if (value := getattr(config, name)) is not None}


def _stored_frame(file: Path) -> pd.DataFrame:
    import pandas

    return pandas.read_parquet(file)


def _refuse_settings(config: AuditConfig) -> None:
    """Refuse settings of a training where a finished run is given."""
    place = ("source", "out", "rows", "data_root")
    others = AuditConfig(config.source, config.out, config.rows, data_root=config.data_root)
    given = [name for name in vars(config) if name not in place and getattr(config, name) != getattr(others, name)]
    if given:
        raise ValueMistake(
            f"{given[0]}={getattr(config, given[0])!r} is given with {config.source!r}, which is a run that was "
            f"trained, expected none of its settings: leave it out, or give the data instead of the run"
        )


def _refuse_out(out: Path) -> None:
    """Refuse the folder of a whole report; one that was interrupted is without its last file, and is written anew."""
    if (out / FILES[-1]).exists():
        raise ExistingFile(
            f"out={str(out)!r} holds a label report already ({FILES[-1]}), expected a new folder: choose another with "
            f"--out, or remove the report"
        )
    refuse_unwritable("out", out)


def _stem(source: str) -> str:
    path, _, _ = source.removeprefix("hf:").partition("?")
    return Path(path).resolve().stem if Path(path).exists() else path.replace("/", "-")


# -- what a run knows --------------------------------------------------------------------------------------


def _finished(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result of a run and its pruner's state."""
    if not (folder / RESULT).exists():
        raise ValueMistake(
            f"source={str(folder)!r} is a run that has not ended, expected a finished one: go on with it by alignprune "
            "train ... --resume with its options"
        )
    state = read_checkpoint(folder)
    if state is None or "pruner" not in state:
        raise ValueMistake(
            f"source={str(folder)!r} is without the checkpoint of one training, expected it, since the report is made "
            "of it: audit a run whose checkpoint.pt is there; a run with --folds has none of its own"
        )
    return read_result(folder), state["pruner"]


def _refuse_part(folder: Path, trained: int, whole: int) -> None:
    """Refuse a run that chose among a part of its data: its first sample is not that of the data."""
    if trained != whole:
        raise ValueMistake(
            f"source={str(folder)!r} is a run that chose among {trained:,} of the {whole:,} samples of its data, "
            f"expected one that chose among all, since a report would name the wrong ones: audit the data, or a run "
            f"without coreset, --oracle and --without-issues"
        )


def _labels(folder: Path, samples: ClassificationData) -> torch.Tensor:
    """The labels that the run was trained on: as it stored them where their truth is known, else the data's."""
    file = folder / NOISE
    return NoisyLabels.load(file).labels if file.exists() else samples.labels


def _trajectories(folder: Path, frame: pd.DataFrame, labels: torch.Tensor, rows: int) -> page.Trajectories | None:
    """The losses of the samples on the page and the means of the classes; None for a run without --trace."""
    import pandas

    if not (folder / trace.FILE).exists():
        return None
    recorded = trace.load(folder / trace.FILE).losses.numpy()
    given, classes = labels.numpy(), int(labels.max()) + 1
    means = np.full((len(recorded), classes), np.nan, dtype=np.float32)
    for epoch, row in enumerate(recorded):
        seen = ~np.isnan(row) & (given >= 0)
        count = np.bincount(given[seen], minlength=classes)
        total = np.bincount(given[seen], row[seen].astype(np.float64), minlength=classes)
        means[epoch, count > 0] = (total / np.maximum(count, 1))[count > 0]
    on_page = pandas.Index(frame["index"]).get_indexer(page.shown(frame, rows))
    return page.Trajectories(recorded[:, on_page], means)


# -- what is written ---------------------------------------------------------------------------------------


def _write(
    out: Path,
    frame: pd.DataFrame,
    found: dict[str, Any],
    samples: ClassificationData,
    trajectories: page.Trajectories | None,
    rows: int,
) -> None:
    cells = frame.assign(**{name: frame[name].map(_cell) for name in ("id", "given_label", "predicted_label")})
    replace_file(out / "label_issues.parquet", lambda file: frame.to_parquet(file, index=False))
    replace_file(out / "label_issues.csv", lambda file: file.write(cells.to_csv(index=False).encode()))
    write_json(out / "summary.json", found)
    if trajectories is not None and trajectories.class_means.shape[1] != len(found["classes"]):
        missing = len(found["classes"]) - trajectories.class_means.shape[1]
        padded = np.pad(trajectories.class_means, ((0, 0), (0, missing)), constant_values=np.nan)
        trajectories = replace(trajectories, class_means=padded)
    show = _by_place(_shower(samples), frame["index"])
    page.write(out / "report.html", frame, found, show=show, trajectories=trajectories, rows=rows)


def _cell(value: str | None) -> str | None:
    """A text that no spreadsheet program takes for a formula."""
    return None if value is None or value != value else as_cell(value)


def _by_place(show: Callable[[int], page.Sample], index: pd.Series) -> Callable[[int], page.Sample]:
    """What shows a sample by its place in the data set, of what shows it by its row in the report."""
    row_of = dict(zip(index.tolist(), range(len(index)), strict=True))
    return lambda place: show(row_of[place])


def _shower(samples: ClassificationData) -> Callable[[int], page.Sample]:
    """What shows a training sample by its row, as it was before any transform."""
    stored, kind = samples.train_eval, raw.modality(samples.train_eval)
    if kind == "texts":
        texts = raw.texts_of(stored)
        return lambda index: page.Text(texts[index])
    if kind == "images":
        return functools.partial(_image, raw.images_of(stored))
    if samples.picture is not None:
        return functools.partial(_picture, stored, samples.picture)
    names = [str(i) for i in range(len(stored[0][0]))]
    return lambda index: page.Values(names, stored[index][0].tolist())


def _picture(stored: Samples, shape: tuple[int, int], index: int) -> page.Sample:
    from PIL import Image

    grey = (stored[index][0].clamp(0, 1) * 255).to(torch.uint8).reshape(shape).numpy()
    scale = max(1, _SHOWN_SIDE // max(shape))
    return page.Image(Image.fromarray(grey).resize((shape[1] * scale, shape[0] * scale), Image.Resampling.NEAREST))


def _image(images: Any, index: int) -> page.Sample:
    from PIL import Image

    try:
        image = images[index][0]
    except ValueError:  # the page says which could not be read
        return page.Image(b"")
    if isinstance(image, torch.Tensor):
        array = image.permute(1, 2, 0).numpy()
        image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    return page.Image(image)


def _base(samples: Samples) -> Samples:
    return _base(samples.dataset) if isinstance(samples, Subset) else samples
