"""What leaving samples out can reach at most: the choice of a judge that was trained on right labels.

    python benchmarks/ceiling.py --seeds 3    # needs the data sets; a quarter of an hour a seed on one core

CIFAR-100N as features of EfficientNet-Lite0, labels as people gave them. Five networks, each trained on the right
labels of four fifths of the images, say how probable the given labels of the last fifth are. As many samples are kept
as have right labels: those of the most probable ones. On these a network is trained, of the same recipe, with half of
the passes of a full training. Where the oracle knows which labels are right, this judge knows what can be seen of it in
the features. It is no method, since it takes the right labels.

Prints, by seed and on average, in percent: the AUROC of the judge for finding wrong labels, how many are wrong among
those that it keeps, and the accuracy on the test set in the last epoch after training on everything, on what the judge
keeps, both with cross-entropy and with ELR, and on the right labels alone.
"""

from __future__ import annotations

import argparse
import statistics

import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import alignprune as ap
from alignprune.bench import data as datasets
from alignprune.bench import models

EPOCHS, BATCH, LEARNING_RATE = 20, 128, 1e-3  # as the recipe `head`
FOLDS = 5
ROWS = ("everything", "everything, ELR", "judge", "judge, ELR", "oracle")


class Data:
    """The features on the CPU, with given and right labels."""

    def __init__(self, root: str | None) -> None:
        found = datasets.load("cifar100n-pretrained", root=root, noise="real")
        assert isinstance(found.train, datasets.TensorData)
        assert isinstance(found.test, datasets.TensorData)
        assert found.clean_labels is not None
        self.x, self.given, self.right = found.train.inputs, found.labels, found.clean_labels
        self.test_x, self.test_y = found.test.inputs, found.test.labels
        self.classes, self.shape = found.num_classes, found.input_shape

    def train(self, samples: Tensor, seed: int, *, elr: bool = False) -> nn.Module:
        """A head after half of the passes of a full training, spent on some of the samples with their given labels."""
        torch.manual_seed(seed)
        head = models.create("head", self.classes, self.shape)
        optimizer = torch.optim.Adam(head.parameters(), LEARNING_RATE)
        steps = EPOCHS * len(self.x) // 2 // BATCH
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        loss = ap.losses.get("elr-cifar10").settings.make(len(self.x), self.classes) if elr else None
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(steps):
            if len(order) < BATCH:
                order = torch.cat([order, samples[torch.randperm(len(samples))]])
            index, order = order[:BATCH], order[BATCH:]
            logits, labels = head(self.x[index]), self.given[index]
            losses = F.cross_entropy(logits, labels) if loss is None else loss(index, labels, logits).losses.mean()
            optimizer.zero_grad()
            losses.backward()
            optimizer.step()
            schedule.step()
        return head.eval()

    @torch.no_grad()
    def accuracy(self, head: nn.Module) -> float:
        """On the test set, in percent."""
        return 100 * float((head(self.test_x).argmax(1) == self.test_y).float().mean())

    def judged(self, seed: int) -> Tensor:
        """How probable the judge finds the given labels, float32 [N]."""
        probable = torch.empty(len(self.x))
        right = self.given == self.right
        fold = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed)) % FOLDS
        for number in range(FOLDS):
            judge = self.train((right & (fold != number)).nonzero().squeeze(1), seed)
            judged = (fold == number).nonzero().squeeze(1)
            with torch.no_grad():
                probable[judged] = judge(self.x[judged]).softmax(1).gather(1, self.given[judged, None]).squeeze(1)
        return probable


def interval(values: list[float]) -> str:
    """Mean and half-width of the 95 % t-interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


def main() -> None:
    """Run the seeds, and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-root", default=None, help="default: the environment variable ALIGNPRUNE_DATA")
    options = parser.parse_args()
    data = Data(options.data_root)
    every, right = torch.arange(len(data.x)), data.given == data.right
    found: dict[str, list[float]] = {name: [] for name in ("AUROC", "wrong among the kept", *ROWS)}
    for seed in range(options.seeds):
        probable = data.judged(seed)
        kept = probable.topk(int(right.sum())).indices
        found["AUROC"].append(100 * float(roc_auc_score(right, probable)))
        found["wrong among the kept"].append(100 * float((~right[kept]).float().mean()))
        for name, samples in zip(ROWS, (every, every, kept, kept, right.nonzero().squeeze(1)), strict=True):
            found[name].append(data.accuracy(data.train(samples, seed, elr=name.endswith("ELR"))))
        print(f"seed {seed}:", ", ".join(f"{name} {values[-1]:.1f}" for name, values in found.items()), flush=True)
    if options.seeds > 1:
        print("\n".join(f"{name:22}{interval(values):>14} %" for name, values in found.items()))


if __name__ == "__main__":
    main()
