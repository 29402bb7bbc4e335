"""Train a classifier with any named method, on any data set, in a folder that a later call can go on from.

The loop is the contract's; around it stand what an experiment needs: recipe, reference, evaluation, diagnosis against
the truth where it is known, checkpoint. Lightning Fabric brings device, precision and DDP.
"""

from __future__ import annotations

import platform
import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tyro.conf import Positional

import alignprune
from alignprune import Pruner, Reference, presets
from alignprune._checks import integer
from alignprune.bench import data as datasets
from alignprune.bench import models, recipes
from alignprune.bench.data import ClassificationData
from alignprune.bench.diagnosis import kept_noise, mean_of_known, noise_auroc
from alignprune.bench.recipes import Recipe
from alignprune.bench.runs import RunFolder
from alignprune.policies import Policy
from alignprune.reference import cross_entropy_losses
from alignprune.scores import Score

Precision = Literal["32", "16", "bf16"]
Device = Literal["auto", "cpu", "cuda", "mps"]

_FABRIC_PRECISION = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
_RECIPE_OF = {"cifar100n": "cifar100", "cifar10n": "cifar10"}
_EVALUATION_BATCH = 512


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run depends on.

    Attributes:
        dataset: a named data set, the path of an .npz file, or a folder with train/ and test/.
        method: a named method; its settings follow as score and policy.
        score: settings of the score.
        policy: settings of the policy.
        delta: annealing starts at epoch floor(delta * epochs).
        recipe: optimiser, schedule, epochs, batch size.
        noise: kind of label noise; None = the data set's own.
        noise_rate: rate of synthetic noise, in [0, 1].
        model: network; None = mlp for features, resnet18 for images.
        reference: "auto" takes "clean" where the method needs a reference; "clean", "noisy" (random training samples
            with their given labels, the paper's control), "none", or a file of training indices (.npy, .pt or .txt).
        reference_size: samples of the reference, at most; at least 10.
        limit: train on a random, class-balanced subset of this size.
        seed: of noise, subset, network, order and draws.
        device: where to train.
        precision: of the forward and backward pass.
        devices: processes of one device each; more than one under torchrun.
        workers: loader processes per device.
        image_size: height and width of image files.
        data_root: folder of the named data sets; None = the environment variable ALIGNPRUNE_DATA.
        out: the run's folder; None = runs/<data set>-<noise>-<method>-<seed>.
        resume: go on with the run in the folder.
    """

    dataset: Positional[str]
    method: str
    score: Score
    policy: Policy
    delta: float
    recipe: Recipe
    noise: str | None = None
    noise_rate: float | None = None
    model: str | None = None
    reference: str = "auto"
    reference_size: int = 10_000
    limit: int | None = None
    seed: int = 0
    device: Device = "auto"
    precision: Precision = "32"
    devices: int = 1
    workers: int = 0
    image_size: int = 224
    data_root: Path | None = None
    out: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        integer("seed", self.seed, at_least=0, remedy="any non-negative integer")
        integer("devices", self.devices, at_least=1, remedy="1 trains in this process")
        integer("workers", self.workers, at_least=0, remedy="0 loads in this process")
        integer("reference_size", self.reference_size, at_least=10, remedy="a smaller mean would be noise")
        if self.limit is not None:
            integer("limit", self.limit, at_least=1, remedy="training samples")

    @property
    def folder(self) -> Path:
        """The run's folder."""
        if self.out is not None:
            return self.out
        parts = (Path(self.dataset).stem, self.noise or "given", self.method, f"seed{self.seed}")
        return Path("runs") / "-".join(parts)

    def stored(self) -> dict[str, Any]:
        """The settings that a resumed run must share, as plain values: all but where and how fast it runs."""
        here = {"device", "workers", "data_root", "out", "resume"}
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in here}
        return plain | {
            "score": {"kind": type(self.score).__name__, **asdict(self.score)},
            "policy": {"kind": type(self.policy).__name__, **asdict(self.policy)},
            "recipe": asdict(self.recipe),
        }


def default_config(dataset: str, method: str, recipe: str | None = None) -> TrainConfig:
    """The configuration that the named method and recipe stand for.

    Args:
        dataset: as in `TrainConfig`.
        method: a name of `alignprune.presets.PRESETS`.
        recipe: a name of `alignprune.bench.recipes.RECIPES`; None = the data set's.
    """
    preset = presets.get(method)
    return TrainConfig(
        dataset=dataset,
        method=method,
        score=preset.score,
        policy=preset.policy,
        delta=preset.delta,
        recipe=recipes.get(recipe or _RECIPE_OF.get(dataset, "sgd")),
    )


class Progress:
    """What a run tells while it works; the command line draws it."""

    def start(self, description: str, epochs: int) -> None:
        """The run begins, or goes on."""

    def step(self, epoch: int, step: int, steps: int) -> None:
        """A batch is done."""

    def epoch(self, metrics: dict[str, Any]) -> None:
        """An epoch is done."""


def train(config: TrainConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run the experiment, or what is left of it, and store it in its folder.

    Args:
        config: everything.
        progress: told of every step and epoch, on the first rank.

    Returns:
        the content of result.json.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: before any training, with what to do.
    """
    data = _data(config)
    fabric = _fabric(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        fabric.launch()
        fabric.seed_everything(config.seed, verbose=False)
    run = _Run(config, data, fabric, progress if fabric.is_global_zero and progress is not None else Progress())
    return run.finish()


class _Run:
    """The state of one run between its epochs."""

    def __init__(self, config: TrainConfig, data: ClassificationData, fabric: Fabric, progress: Progress) -> None:
        self.config, self.data, self.fabric, self.progress = config, data, fabric, progress
        recipe = config.recipe
        self.pruner = Pruner(
            len(data.labels), recipe.epochs, config.score, config.policy, delta=config.delta, seed=config.seed
        )
        self.reference = _reference(config, data, fabric.device)
        name = config.model or ("mlp" if len(data.input_shape) == 1 else "resnet18")
        network = models.create(name, data.num_classes, data.input_shape)
        if len(data.input_shape) == 3:
            network = network.to(memory_format=torch.channels_last)  # half as fast again on a CPU, faster in bf16
        self.folder: RunFolder | None = None
        if fabric.is_global_zero:  # only now, after all that can be refused has been
            self.folder = RunFolder(config.folder, config.stored(), resume=config.resume)
            if data.noise is not None and not config.resume:
                data.noise.save(config.folder / "noise.npz")
        model, optimizer = fabric.setup(network, recipes.make_optimizer(recipe, network.parameters()))
        self.model: nn.Module = model
        self.optimizer: torch.optim.Optimizer = optimizer
        self.train_loader = self._loader(pruned=False)
        self.pruned_loader = self._loader(pruned=True) if self.pruner.score.needs_pruned else None
        self.test_loader = DataLoader(data.test, batch_size=_EVALUATION_BATCH, num_workers=config.workers)
        self.metrics: list[dict[str, Any]] = []
        if config.resume:
            self._restore()

    def _loader(self, *, pruned: bool) -> DataLoader[Any]:
        config = self.config
        return self.pruner.loader(
            self.data.train,
            pruned=pruned,
            batch_size=max(1, config.recipe.batch_size // config.devices),
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            pin_memory=self.fabric.device.type == "cuda",
        )

    def finish(self) -> dict[str, Any]:
        """Train the epochs that are left and store the result."""
        if self.folder is not None and self.folder.result is not None:
            return self.folder.result
        config, pruner = self.config, self.pruner
        noise = self.data.noise
        rate = f", {noise.noise_rate:.1%} wrong labels" if noise is not None else ""
        self.progress.start(f"{config.dataset}{rate}: {config.method}, seed {config.seed}", pruner.epochs)
        for _ in range(pruner.epoch, pruner.epochs):
            metrics = self._epoch()
            self.metrics.append(metrics)
            self.progress.epoch(metrics)
            if self.folder is not None:
                self.folder.save_epoch(self.metrics, self._checkpoint())
        result = self._result()
        if self.folder is not None:
            self.folder.save_result(result)
        return result

    def _epoch(self) -> dict[str, Any]:
        pruner, recipe, fabric = self.pruner, self.config.recipe, self.fabric
        epoch, selection, annealing = pruner.epoch, pruner.selection, pruner.annealing
        steps = len(self.train_loader)
        total, started = torch.zeros((), device=fabric.device), time.perf_counter()
        self.model.train()
        for step, (index, x, y) in enumerate(self._batches(self.train_loader)):
            recipes.set_schedule(self.optimizer, recipe, recipes.position(epoch, step, steps, recipe.epochs))
            if pruner.policy.in_batch:
                index, x, y = self._chosen(index, x, y)
            losses = F.cross_entropy(self.model(x), y, reduction="none", label_smoothing=recipe.label_smoothing)
            loss = pruner.reduce(index, losses)
            self.optimizer.zero_grad()
            fabric.backward(loss)
            self.optimizer.step()
            total += loss.detach()
            self.progress.step(epoch, step, steps)
        train_loss = float(total) / steps
        seconds = time.perf_counter() - started
        if self.pruned_loader is not None:
            self._refresh(self.pruned_loader)
        reference_loss = self.reference.loss(self.model) if self.reference is not None else None
        pruner.end_epoch(reference_loss)
        accuracy, test_loss = self._evaluate()
        truth = self.data.noise
        return {
            "epoch": epoch + 1,
            "accuracy": accuracy,
            "test_loss": test_loss,
            "train_loss": train_loss,
            "reference_loss": reference_loss,
            "pruned_share": selection.pruned_share,
            "annealing": annealing,
            "kept_noise": kept_noise(selection, truth.is_noisy) if truth is not None else None,
            "score_auroc": noise_auroc(pruner.score, pruner.scores, truth.is_noisy) if truth is not None else None,
            "forward_passes": pruner.forward_passes,
            "images_per_second": len(selection) / seconds,
            "train_seconds": seconds,
            "seconds": time.perf_counter() - started,
        }

    def _batches(self, loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches with the data on the device; the index stays on the host, where it is checked."""
        for index, (x, y) in loader:
            yield index, x.to(self.fabric.device, non_blocking=True), y.to(self.fabric.device, non_blocking=True)

    def _chosen(self, index: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The part of a batch that the policy trains on, after a probing pass in evaluation mode."""
        network = self.model.module
        self.model.eval()
        with torch.no_grad(), self.fabric.autocast():
            features, logits = models.features_and_logits(network, x)  # type: ignore[arg-type]
        self.model.train()
        chosen = self.pruner.choose(index, logits=logits, features=features, labels=y)
        return index[chosen.to(index.device)], x[chosen], y[chosen]

    def _refresh(self, loader: DataLoader[Any]) -> None:
        """Record the losses of the samples that this epoch left out: training augmentation, evaluation mode (IES)."""
        smoothing = self.config.recipe.label_smoothing
        self.model.eval()
        with torch.no_grad():
            for index, x, y in self._batches(loader):
                losses = F.cross_entropy(self.model(x), y, reduction="none", label_smoothing=smoothing)
                self.pruner.record(index, losses)

    @torch.no_grad()
    def _evaluate(self) -> tuple[float, float]:
        """Accuracy and plain cross-entropy on the test set."""
        self.model.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.fabric.device)
        total = torch.zeros((), dtype=torch.float64, device=self.fabric.device)
        for x, y in self.test_loader:
            x, y = x.to(self.fabric.device, non_blocking=True), y.to(self.fabric.device, non_blocking=True)
            logits = self.model(x).float()
            right += (logits.argmax(1) == y).sum()
            total += F.cross_entropy(logits, y, reduction="sum").double()
        size = len(self.data.test)  # type: ignore[arg-type]
        return int(right) / size, float(total) / size

    def _checkpoint(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": self.pruner.state_dict(),
            "metrics": self.metrics,
            "random": _random_state(),
        }

    def _restore(self) -> None:
        state = RunFolder(self.config.folder, self.config.stored(), resume=True).load_checkpoint()
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.pruner.load_state_dict(state["pruner"])
        self.metrics = state["metrics"]
        _set_random_state(state["random"])

    def _result(self) -> dict[str, Any]:
        config, last, pruner = self.config, self.metrics[-1], self.pruner
        ranked = self.metrics[: pruner.annealing_start] or self.metrics
        noise = self.data.noise
        known = noise is not None
        passes = pruner.num_samples * pruner.epochs
        return {
            "dataset": config.dataset,
            "noise": noise.kind if noise is not None else None,
            "noise_rate": noise.noise_rate if noise is not None else None,
            "method": config.method,
            "seed": config.seed,
            "epochs": pruner.epochs,
            "train_size": pruner.num_samples,
            "accuracy": last["accuracy"],
            "test_loss": last["test_loss"],
            "forward_passes": pruner.forward_passes,
            "forward_fraction": pruner.forward_passes / passes,
            "reference_forward_passes": pruner.epochs * len(self.reference) if self.reference is not None else 0,
            "kept_noise": mean_of_known([row["kept_noise"] for row in ranked]) if known else None,
            "score_auroc": mean_of_known([_number(row["score_auroc"]) for row in ranked]) if known else None,
            "images_per_second": sum(row["images_per_second"] for row in self.metrics) / len(self.metrics),
            "train_seconds": sum(row["train_seconds"] for row in self.metrics),
            "seconds": sum(row["seconds"] for row in self.metrics),
            "device": _device_name(self.fabric.device),
            "versions": {
                "alignprune": alignprune.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }


def _data(config: TrainConfig) -> ClassificationData:
    data = datasets.load(
        config.dataset,
        root=config.data_root,
        noise=config.noise,
        noise_rate=config.noise_rate,
        seed=config.seed,
        image_size=config.image_size,
    )
    return data if config.limit is None else datasets.limit(data, config.limit, config.seed)


def _fabric(config: TrainConfig) -> Fabric:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' is given, but torch sees no GPU here: use --device cpu, or --device auto")
    return Fabric(
        accelerator=config.device,
        devices=config.devices,
        strategy="ddp" if config.devices > 1 else "auto",
        precision=_FABRIC_PRECISION[config.precision],  # type: ignore[arg-type]
    )


def _reference(config: TrainConfig, data: ClassificationData, device: torch.device) -> Reference | None:
    """The reference that the configuration asks for, evaluated with the training criterion."""
    kind = config.reference
    if kind == "auto":
        kind = "clean" if config.score.needs_reference else "none"
    if kind == "none":
        if config.score.needs_reference:
            raise ValueError(
                f"reference='none' is given, but {config.method} needs a reference: choose clean, noisy or a file of "
                f"indices, or a method that needs none"
            )
        return None
    losses = cross_entropy_losses(config.recipe.label_smoothing, device)
    make: Callable[..., Reference] = Reference.subset
    if kind == "clean":
        source = data.reference if data.reference is not None else data.clean_eval
        if source is None:
            raise ValueError(
                f"{config.method} needs a clean reference, and {config.dataset} brings none: add x_reference and "
                f"y_reference to the .npz (or a reference/ folder), or choose --reference noisy or a file of training "
                f"indices that you trust"
            )
    else:
        source = data.train_eval
    if kind in ("clean", "noisy"):
        size = min(config.reference_size, len(source))  # type: ignore[arg-type]
        return make(source, size=size, seed=config.seed, losses=losses, num_workers=config.workers)
    indices = _read_indices(Path(kind))
    return Reference.indices(source, indices, losses=losses, num_workers=config.workers)


def _read_indices(path: Path) -> Tensor:
    """Training indices of a pseudo-clean subset, int64 [M], from a .npy, .pt or .txt file."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".npy": np.load,
        ".pt": lambda file: torch.load(file, weights_only=True),
        ".txt": lambda file: np.loadtxt(file, dtype=np.int64, ndmin=1),
    }
    if path.suffix not in readers:
        raise ValueError(
            f"reference={str(path)!r} is unknown, expected auto, clean, noisy, none or a file of training indices "
            f"({', '.join(readers)})"
        )
    if not path.exists():
        raise FileNotFoundError(f"reference={str(path)!r}: there is no such file of training indices")
    indices: Tensor = torch.as_tensor(readers[path.suffix](path))
    return indices


def _random_state() -> dict[str, Any]:
    """The states of all global generators, which augmentation and dropout draw from."""
    numpy_state: Any = np.random.get_state()
    kind, keys, position, has_gauss, gauss = numpy_state
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
