"""Self-supervised features, for SSP: a network learns to separate samples, and sees no label.

SimCLR draws two augmented views of each sample of a batch and asks the network, through a small projection head, which
view belongs to which. The head is thrown away; the features before it, of the plain samples, are what clustering then
works on. Wrong labels cannot reach them.

Source: Chen et al. (ICML 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, Subset

from alignprune._checks import integer
from alignprune.bench.data import Samples
from alignprune.bench.models import features_and_logits
from alignprune.bench.recipes import Recipe, make_optimizer, position, set_schedule
from alignprune.errors import ValueMistake

PROJECTION = 128
"""Width of what the two views are compared by."""


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each view's partner among all other views, by the cosine of their projections.

    The mean over all 2B views i of -log( exp(cos(z_i, z_partner) / T) / sum over k != i of exp(cos(z_i, z_k) / T) ).

    Args:
        z1, z2: projections of the two views, float [B, d]; row i of both is of one sample.
        temperature: t, > 0; the smaller, the more the nearest others count.

    Returns:
        scalar, log(2B - 1) where nothing is separated.

    Raises:
        ValueError: for shapes that differ or a temperature out of range.

    Source: SimCLR, equation 1.
    """
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise ValueMistake(
            f"z1 has shape {tuple(z1.shape)} and z2 {tuple(z2.shape)}, expected [B, d] both: give two views of one "
            "batch"
        )
    _check_temperature(temperature)
    count = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    itself = torch.eye(2 * count, dtype=torch.bool, device=z.device)
    similarity = (z @ z.T / temperature).masked_fill(itself, -math.inf)
    partner = torch.arange(2 * count, device=z.device).roll(count)
    return F.cross_entropy(similarity, partner)


def simclr_features(
    network: nn.Module,
    views: Samples,
    evaluation: Samples,
    *,
    epochs: int = 200,
    batch_size: int = 512,
    temperature: float = 0.5,
    lr: float = 0.3,
    seed: int = 0,
    device: torch.device | str | None = None,
    workers: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Tensor:
    """Train a network by SimCLR and return its features of every sample.

    An epoch shows each sample in two views, in batches of one size; the remainder, another one each epoch, is left out.
    All views of a batch pass the network together, so that its normalisations see them together.

    Args:
        network: a timm model or one with its methods, with fresh weights; it is trained in place.
        views: the N samples under a random augmentation, drawn anew each time: `ClassificationData.contrastive`.
        evaluation: the same samples in the same order under the evaluation transform.
        epochs: length of the training.
        batch_size: samples of a step, at least 2; all of them where there are fewer.
        temperature: of `nt_xent`, > 0.
        lr: first learning rate of the half cosine, per 256 samples of a batch.
        seed: of the projection head, the order and the augmentation; it decides them on one kind of device and one
            number of workers.
        device: where to train; None = where the network is.
        workers: loader processes.
        progress: called with (epoch, mean loss) after every epoch, counted from 1.

    Returns:
        float32 [N, d] on the CPU: what the network's classifier would see.

    Raises:
        ValueError: if a setting is out of range, the two data sets differ in size, or the training diverges.

    Source: SimCLR's settings for CIFAR, but SGD with Nesterov's momentum instead of LARS, which is for batches of
        thousands, and fewer than its 1000 epochs.
    """
    size = _check(views, evaluation, batch_size, temperature, seed)
    recipe = Recipe(
        name="simclr",
        source="simclr_features",
        epochs=epochs,
        batch_size=min(batch_size, size),
        lr=lr,
        lr_batch_size=256,
        nesterov=True,
        weight_decay=1e-6,
    )
    device = torch.device(device) if device is not None else next(network.parameters()).device
    network.to(device)
    batches = _Pairs(size, recipe.batch_size, torch.Generator().manual_seed(seed))
    loader = DataLoader(views, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)  # the augmentation, the head and the loaders draw from the global generators
        width = _features(network, Subset(evaluation, [0]), 1, device, workers=0).shape[1]
        head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION)).to(device)
        _train(network.train(), head, loader, recipe, temperature, device, progress)
        return _features(network, evaluation, recipe.batch_size, device, workers)


class _Pairs(Sampler[list[int]]):
    """Batches of an epoch in random order; each lists its samples twice, so that each comes in two views."""

    def __init__(self, size: int, batch_size: int, generator: torch.Generator) -> None:
        self.size, self.batch_size, self.generator = size, batch_size, generator

    def __len__(self) -> int:
        return self.size // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.size, generator=self.generator)[: len(self) * self.batch_size]
        for batch in order.split(self.batch_size):
            yield batch.tolist() * 2


def _train(
    network: nn.Module,
    head: nn.Module,
    loader: DataLoader,
    recipe: Recipe,
    temperature: float,
    device: torch.device,
    progress: Callable[[int, float], None] | None,
) -> None:
    optimizer = make_optimizer(recipe, [*network.parameters(), *head.parameters()])
    for epoch in range(recipe.epochs):
        total = torch.zeros((), device=device)
        for step, (x, _) in enumerate(loader):
            set_schedule(optimizer, recipe, position(epoch, step, len(loader), recipe.epochs))
            features, _ = features_and_logits(network, x.to(device, non_blocking=True))
            z1, z2 = head(features).chunk(2)
            loss = nt_xent(z1, z2, temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        mean = total.item() / len(loader)
        if not math.isfinite(mean):
            raise ValueMistake(
                f"lr={recipe.lr} is too high, since the mean loss of epoch {epoch + 1} is {mean}, expected a finite "
                "one: lower it"
            )
        if progress is not None:
            progress(epoch + 1, mean)


@torch.no_grad()
def _features(network: nn.Module, samples: Samples, batch_size: int, device: torch.device, workers: int) -> Tensor:
    """Features in evaluation mode, float32 [N, d] on the CPU."""
    network.eval()
    loader = DataLoader(samples, batch_size=batch_size, num_workers=workers)
    return torch.cat([features_and_logits(network, x.to(device))[0].float().cpu() for x, _ in loader])


def _check(views: Samples, evaluation: Samples, batch_size: int, temperature: float, seed: int) -> int:
    """The number of samples, if everything fits."""
    size, other = len(views), len(evaluation)  # type: ignore[arg-type]
    if size != other:
        raise ValueMistake(
            f"views has {size} samples and evaluation {other}, expected the same samples in the same order: take both "
            f"from one data set"
        )
    integer("samples", size, at_least=2, remedy="views are compared with those of other samples")
    integer("batch_size", batch_size, at_least=2, remedy="views are compared with those of other samples")
    integer("seed", seed, at_least=0, remedy="any non-negative integer")
    _check_temperature(temperature)
    return size


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueMistake(
            f"temperature={temperature!r} is out of range, expected a number > 0: SimCLR uses 0.5 on CIFAR"
        )
