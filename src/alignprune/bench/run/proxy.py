"""The proxy run: one full training that collects, on the way, everything that coreset methods choose by.

Every method of `alignprune.coresets` is a pure function of what this run leaves in proxy.npz, so that they all judge
the same network. The cost is reported with the runs that use it, apart from their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from alignprune.bench import models
from alignprune.bench.data import ClassificationData, Samples
from alignprune.bench.run.evaluation import BATCH_SIZE
from alignprune.bench.run.observers import EndOfEpoch, Observer
from alignprune.coresets import Proxy
from alignprune.errors import ValueMistake

FILE = "proxy.npz"

WARMUP_SHARE = 0.15
"""When the statistics are taken, as a share of the run: 30 of 200 epochs, as Prune4ReL on CIFAR-100."""

CHECKPOINTS = 10
"""Early moments, at most, over which EL2N and GraNd are averaged."""


def warmup_epochs(epochs: int, given: int | None) -> int:
    """After how many epochs the end-of-warm-up statistics are taken: the given number, or 15 % of the run."""
    if given is not None and not 1 <= given <= epochs:
        raise ValueMistake(
            f"proxy_epochs={given} is out of range, expected an integer from 1 to {epochs}: epochs of the run"
        )
    return given if given is not None else max(1, round(WARMUP_SHARE * epochs))


class Collector(Observer):
    """Gathers the statistics of a proxy run.

    Args:
        data: the training set in its views.
        epochs: of the run.
        proxy_epochs: when the warm-up ends; None = 15 % of the run.
        device: of the network.
        workers: loader processes of the evaluation passes.
    """

    name = "collector"

    def __init__(
        self, data: ClassificationData, epochs: int, proxy_epochs: int | None, device: torch.device, workers: int
    ) -> None:
        size = len(data.labels)
        self.data, self.device, self.workers = data, device, workers
        self.warmup = warmup_epochs(epochs, proxy_epochs)
        count = min(CHECKPOINTS, self.warmup)
        self.checkpoints = sorted({round(self.warmup * (i + 1) / count) for i in range(count)})
        self.forward_passes = 0
        self.label_probabilities = torch.zeros(epochs, size)
        self.margins = torch.zeros(epochs, size)
        self.correct = torch.zeros(epochs, size, dtype=torch.bool)
        self.error_norms = torch.zeros(len(self.checkpoints), size)
        self.feature_norms = torch.zeros(len(self.checkpoints), size)
        self.snapshot: dict[str, Tensor] = {}
        self._row = torch.zeros(size, device=device)
        self._margin = torch.zeros(size, device=device)
        self._right = torch.zeros(size, dtype=torch.bool, device=device)

    @torch.no_grad()
    def step(self, index: Tensor, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        index = index.to(self.device)
        probabilities, given = logits.detach().float().softmax(1), labels[:, None]
        own = probabilities.gather(1, given).squeeze(1)
        self._row.index_copy_(0, index, own)
        self._margin.index_copy_(0, index, own - probabilities.scatter(1, given, -1.0).amax(1))
        self._right.index_copy_(0, index, logits.argmax(1) == labels)

    def end_epoch(self, epoch: EndOfEpoch) -> dict[str, Any]:
        """Close the epoch; at a checkpoint, look at every training sample."""
        self.label_probabilities[epoch.number] = self._row.cpu()
        self.margins[epoch.number] = self._margin.cpu()
        self.correct[epoch.number] = self._right.cpu()
        done = epoch.number + 1
        if done in self.checkpoints:
            self._check_point(done, epoch.model)
        return {}

    def _check_point(self, done: int, model: nn.Module) -> None:
        """Take the statistics after so many epochs."""
        features, logits = self._look(model, self.data.train_eval)
        errors = logits.softmax(1)
        errors[torch.arange(len(errors)), self.data.labels] -= 1.0
        row = self.checkpoints.index(done)
        self.error_norms[row] = errors.norm(dim=1)
        self.feature_norms[row] = features.float().norm(dim=1)
        if done == self.warmup:
            self.snapshot = {"features": features, "logits": logits}
            if self.data.strong is not None:
                strong_features, strong_logits = self._look(model, self.data.strong)
                self.snapshot |= {"strong_features": strong_features, "strong_logits": strong_logits}

    def proxy(self) -> Proxy:
        """What the finished run collected."""
        return Proxy(
            labels=self.data.labels,
            num_classes=self.data.num_classes,
            logits=self.snapshot["logits"],
            features=self.snapshot["features"],
            label_probabilities=self.label_probabilities,
            correct=self.correct,
            error_norms=self.error_norms,
            feature_norms=self.feature_norms,
            strong_features=self.snapshot.get("strong_features"),
            strong_logits=self.snapshot.get("strong_logits"),
            self_supervised=None,
            margins=self.margins,
        )

    def result(self) -> dict[str, Any]:
        return {"collect_forward_passes": self.forward_passes}

    def save(self, folder: Path) -> None:
        self.proxy().save(folder / FILE)

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in _STATE:
            setattr(self, name, state[name])

    @torch.no_grad()
    def _look(self, model: nn.Module, samples: Samples) -> tuple[Tensor, Tensor]:
        """Features, float16 [N, d], and logits, float32 [N, C], in evaluation mode."""
        training = model.training
        model.eval()
        found = []
        with torch.random.fork_rng(devices=[]):  # the strong view draws; the training goes on as if nobody had looked
            for x, _ in DataLoader(samples, batch_size=BATCH_SIZE, num_workers=self.workers):
                features, logits = models.features_and_logits(model, x.to(self.device, non_blocking=True))
                found.append((features.half().cpu(), logits.float().cpu()))
                self.forward_passes += len(x)
        model.train(training)
        all_features, all_logits = zip(*found, strict=True)
        return torch.cat(all_features), torch.cat(all_logits)


_STATE = (
    "forward_passes",
    "label_probabilities",
    "margins",
    "correct",
    "error_norms",
    "feature_norms",
    "snapshot",
    "_row",
    "_margin",
    "_right",
)
