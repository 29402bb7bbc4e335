"""What leaving samples out can reach: the choice of judges that were trained on right labels, and on the given ones.

    python benchmarks/ceiling.py --seeds 3    # needs the data sets; a quarter of an hour a seed on one core

CIFAR-100N as features of EfficientNet-Lite0, labels as people gave them. Five networks, each trained on four fifths
of the images, say how probable the given labels of the last fifth are. As many samples are kept as have right labels:
those of the most probable ones. On these a network is trained, of the same recipe, with half of the passes of a full
training.

One judge is trained on right labels. Where the oracle knows which labels are right, this judge knows what can be seen
of it in the features; it is no method. The other is trained on the given labels, with ELR, as everybody can.

Prints, by seed and on average, in percent: of both judges the AUROC for finding wrong labels and how many are wrong
among those that they keep, and the accuracy on the test set in the last epoch: of training on everything, on what
either judge keeps, all with ELR, and on the right labels alone.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import alignprune as ap
from alignprune.bench import data as datasets
from alignprune.bench import models, recipes
from alignprune.bench.results.measures import statistics

RECIPE = recipes.get("head")
FOLDS = 5


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
        optimizer = torch.optim.Adam(head.parameters(), RECIPE.lr)
        steps = RECIPE.epochs * len(self.x) // 2 // RECIPE.batch_size
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        loss = ap.losses.get("elr-cifar10").settings.make(len(self.x), self.classes) if elr else None
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(steps):
            if len(order) < RECIPE.batch_size:
                order = torch.cat([order, samples[torch.randperm(len(samples))]])
            index, order = order[: RECIPE.batch_size], order[RECIPE.batch_size :]
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

    def judged(self, seed: int, *, by_right: bool) -> Tensor:
        """How probable the given labels are to networks that were trained on the right labels of others, or on all."""
        probable = torch.empty(len(self.x))
        taught = self.given == self.right if by_right else torch.ones(len(self.x), dtype=torch.bool)
        fold = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed)) % FOLDS
        for number in range(FOLDS):
            judge = self.train((taught & (fold != number)).nonzero().squeeze(1), seed, elr=not by_right)
            judged = (fold == number).nonzero().squeeze(1)
            with torch.no_grad():
                probable[judged] = judge(self.x[judged]).softmax(1).gather(1, self.given[judged, None]).squeeze(1)
        return probable


def main() -> None:
    """Run the seeds, and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-root", default=None, help="default: the environment variable ALIGNPRUNE_DATA")
    options = parser.parse_args()
    data = Data(options.data_root)
    right = data.given == data.right
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(options.seeds):
        found["everything"].append(data.accuracy(data.train(torch.arange(len(data.x)), seed, elr=True)))
        found["oracle"].append(data.accuracy(data.train(right.nonzero().squeeze(1), seed)))
        for name, by_right in (("right", True), ("given", False)):
            probable = data.judged(seed, by_right=by_right)
            kept = probable.topk(int(right.sum())).indices
            found[f"judge by {name} labels"].append(data.accuracy(data.train(kept, seed, elr=True)))
            found[f"  its AUROC, {name}"].append(100 * float(roc_auc_score(right, probable)))
            found[f"  wrong among the kept, {name}"].append(100 * float((~right[kept]).float().mean()))
        print(
            f"seed {seed}:", ", ".join(f"{name.strip()} {values[-1]:.1f}" for name, values in found.items()), flush=True
        )
    for name, values in found.items():
        print(f"{name:34}{statistics(values):.1f} %")


if __name__ == "__main__":
    main()
