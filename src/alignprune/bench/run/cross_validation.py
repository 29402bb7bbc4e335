"""Cross-validation: what networks say of the samples that they were never trained on.

The samples are dealt into folds, every given class evenly. For each fold a network is trained on the others, by the
run's own recipe; a tenth of these is held out with its given labels, which may be wrong, and the epoch is taken in
which most of them were met. No clean label is looked at.

fold0/, fold1/, ...  the networks' own runs, each a run's folder: what was interrupted goes on
probabilities.npz    when all are done; see `alignprune.bench.run.out_of_fold`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from alignprune._checks import floor
from alignprune._ranks import keyed_generator
from alignprune.bench import data as datasets
from alignprune.bench.data import ClassificationData, Samples
from alignprune.bench.run import training
from alignprune.bench.run.config import TrainConfig
from alignprune.bench.run.evaluation import BATCH_SIZE
from alignprune.bench.run.folder import CONFIG, RunFolder, read_checkpoint
from alignprune.bench.run.out_of_fold import OutOfFold
from alignprune.bench.run.parts import make_network
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.record import RunRecord, known, mean_of_known
from alignprune.errors import ValueMistake

STOPPING = 0.1
"""Share of the samples outside of a fold that chooses the epoch instead of being trained on."""


@dataclass(frozen=True, eq=False)
class Fold:
    """What a fold's network does with each sample.

    Attributes:
        trained: samples that it is trained on, int64 [n], ascending.
        stopping: samples that its epoch is chosen by, int64 [m], ascending.
        left_out: samples of the fold, of which it says what it sees, int64 [k], ascending.
    """

    trained: Tensor
    stopping: Tensor
    left_out: Tensor


def folds(labels: Tensor, count: int, seed: int) -> list[Fold]:
    """Deal the samples into folds, of every given class as many into each, plus or minus one.

    Args:
        labels: given class ids, int64 [N].
        count: number of folds, at least 2.
        seed: of the draws; torch's global generator is not used.

    Raises:
        ValueError: for so few samples that a fold's network would have nothing to be trained on or chosen by.
    """
    total = len(labels)
    shuffled = torch.randperm(total, generator=keyed_generator(seed, 0, "folds"))
    place = torch.empty(total, dtype=torch.int64)
    place[shuffled[labels[shuffled].argsort(stable=True)]] = torch.arange(total) % count
    made = []
    for fold in range(count):
        others = (place != fold).nonzero().squeeze(1)
        size = floor(STOPPING * len(others))
        if not size or len(others) == total:
            raise ValueMistake(
                f"folds={count} leaves {len(others)} of {total} samples outside of a fold, expected 10 at least, and "
                f"fewer than all: choose fewer folds, or more samples"
            )
        order = torch.randperm(len(others), generator=keyed_generator(seed, fold, "stopping"))
        stopping, trained = (others[part.sort().values] for part in (order[:size], order[size:]))
        made.append(Fold(trained, stopping, (place == fold).nonzero().squeeze(1)))
    return made


@dataclass(frozen=True)
class _Outcome:
    """What came of a fold.

    Attributes:
        result: the record of its run.
        probabilities, last: what the networks of the best and the last epoch see in it, float32 [k, C].
    """

    result: dict[str, Any]
    probabilities: Tensor
    last: Tensor


def run(config: TrainConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Cross-validate, or do what is left of it, and store it in the run's folder.

    Args:
        config: with the number of folds.
        progress: hears of every step and epoch of every fold.

    Returns:
        the content of result.json. Accuracy and test loss are means over the networks, each of its best epoch; samples
        held out, to choose an epoch or to say what is seen in them, count as forward passes and are not trained on.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: before any training, with what to do.
    """
    assert config.pruning.folds is not None
    inputs = training.prepare(config, progress)
    samples = inputs.data
    parts = folds(samples.labels, config.pruning.folds, config.seed)
    with closing(
        RunFolder(config.folder, config.stored(None), resume=config.place.resume, noise=samples.noise)
    ) as folder:
        return folder.result or _run(config, samples, parts, folder, progress)


def _run(
    config: TrainConfig,
    samples: ClassificationData,
    parts: Sequence[Fold],
    folder: RunFolder,
    progress: Progress | None,
) -> dict[str, Any]:
    outcomes = [
        _fold(config, samples, part, folder.path / f"fold{number}", progress) for number, part in enumerate(parts)
    ]
    OutOfFold(
        probabilities=_in_order(parts, [outcome.probabilities for outcome in outcomes]),
        last=_in_order(parts, [outcome.last for outcome in outcomes]),
        labels=samples.labels,
        is_noisy=None if samples.noise is None else samples.noise.is_noisy,
    ).save(folder.path)
    result = asdict(_record(config, samples, parts, outcomes))
    folder.save_result(result)
    return result


def _fold(
    config: TrainConfig, samples: ClassificationData, part: Fold, folder: Path, progress: Progress | None
) -> _Outcome:
    """Train the network of a fold, or what is left of it."""
    own = config.with_settings(out=folder, resume=(folder / CONFIG).exists())
    held_out = Subset(samples.train_eval, part.stopping.tolist())
    inputs = training.Inputs(replace(datasets.subset(samples, part.trained), stopping=held_out), None)
    result = training.fit(own, inputs, progress)
    state = read_checkpoint(folder)
    assert state is not None, "a complete run has a checkpoint"
    device = config.machine.torch_device
    left_out = _loader(Subset(samples.train_eval, part.left_out.tolist()), config.machine.workers)
    network = make_network(own, samples).to(device)
    network.load_state_dict(state["model"])
    last = torch.cat(list(_probabilities(network, left_out, device)))
    network.load_state_dict(state["stopping"]["weights"])
    return _Outcome(result, torch.cat(list(_probabilities(network, left_out, device))), last)


def _in_order(parts: Sequence[Fold], found: Sequence[Tensor]) -> Tensor:
    """What the folds' networks see, float32 [N, C], in the order of the data set."""
    where = torch.cat([part.left_out for part in parts])
    return torch.cat(list(found))[where.argsort()]


@torch.no_grad()
def _probabilities(network: nn.Module, loader: DataLoader[Any], device: torch.device) -> Iterator[Tensor]:
    """What the network sees in each batch, float32 [B, C] on the CPU."""
    network.eval()
    for x, _ in loader:
        yield network(x.to(device, non_blocking=True)).float().softmax(1).cpu()


def _loader(samples: Samples, workers: int) -> DataLoader[Any]:
    """Batches in order. The generator is its own, so that no other draw of the run depends on who looks."""
    return DataLoader(samples, batch_size=BATCH_SIZE, num_workers=workers, generator=torch.Generator())


def _record(
    config: TrainConfig, samples: ClassificationData, parts: Sequence[Fold], outcomes: Sequence[_Outcome]
) -> RunRecord:
    results = [outcome.result for outcome in outcomes]
    epochs, size = sum(result["epochs"] for result in results), len(samples.labels)
    held_out = 0 if samples.stopping is None else len(samples.stopping)  # type: ignore[arg-type]
    full = (size + held_out) * config.recipe.epochs
    trained = sum(result["forward_passes"] for result in results)
    looked = sum(result["holdout_forward_passes"] for result in results) + size
    return RunRecord(
        dataset=config.data.dataset,
        noise=results[0]["noise"],
        noise_rate=None if samples.noise is None else samples.noise.noise_rate,
        method=config.pruning.method,
        prune_ratio=None,
        seed=config.seed,
        model=results[0]["model"],
        epochs=epochs,
        train_size=size,
        evaluated_on=results[0]["evaluated_on"],
        accuracy=sum(result["accuracy"] for result in results) / len(results),
        test_loss=sum(result["test_loss"] for result in results) / len(results),
        forward_passes=trained + looked,
        forward_fraction=(trained + looked) / full,
        trained_fraction=trained / full,
        reference_forward_passes=0,
        proxy_forward_passes=0,
        pruned_share=1 - trained / (size * epochs),
        kept_noise=known(mean_of_known(result["kept_noise"] for result in results)),
        score_auroc=None,
        estimated_noise_rate=None,
        samples_per_second=sum(result["samples_per_second"] for result in results) / len(results),
        train_seconds=sum(result["train_seconds"] for result in results),
        seconds=sum(result["seconds"] for result in results),
        device=results[0]["device"],
    )
