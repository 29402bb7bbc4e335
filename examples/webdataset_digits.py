"""A stream that is pruned before it is decoded: scikit-learn's digits in tar shards, 40 % wrong labels, webdataset.

A script without pruning differs in the lines that end in "# pruning".

python examples/webdataset_digits.py
"""

import io
import tarfile
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
import webdataset as wds
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

import alignprune as ap
from alignprune.integrations.streams import SelectedStream

EPOCHS, SHARDS = 24, 8

images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()
noisy = ap.noise.corrupt(y[:1200], "symmetric", 0.4, 10, seed=0)


def write_shards(folder: Path) -> list[str]:
    """The training set as tar files; a sample's key is its number."""
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(shard, 1200, SHARDS):
                for kind, content in (("img", x[number].numpy().tobytes()), ("cls", b"%d" % noisy.labels[number])):
                    member = tarfile.TarInfo(f"{number:06d}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return sorted(map(str, folder.glob("*.tar")))


def number(sample: dict) -> int:
    return int(sample["__key__"])


def decode(sample: dict) -> tuple[torch.Tensor, int]:
    return torch.frombuffer(bytearray(sample["img"]), dtype=torch.float32), int(sample["cls"])


with tempfile.TemporaryDirectory() as folder:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    data = wds.WebDataset(write_shards(Path(folder)), shardshuffle=SHARDS).shuffle(600)
    pruner = ap.Pruner.from_preset("robust", num_samples=1200, epochs=EPOCHS, labels=noisy.labels)  # pruning
    data = SelectedStream(data, pruner.stream, number, decode)  # pruning: was data.map(decode)
    loader = DataLoader(data, batch_size=32, num_workers=2, persistent_workers=True)

    for _ in range(pruner.epochs):
        for index, (inputs, targets) in loader:  # pruning
            losses = F.cross_entropy(model(inputs), targets, reduction="none")
            optimizer.zero_grad()
            pruner.reduce(index, losses).backward()  # pruning
            optimizer.step()
        pruner.end_epoch()  # pruning

accuracy = (model(x[1300:]).argmax(1) == y[1300:]).float().mean()
print(f"accuracy {accuracy:.1%} with {pruner.forward_passes / (EPOCHS * 1200):.0%} of the samples decoded")
suspects = pruner.suspects
if suspects is not None:
    print(f"{len(suspects)} labels are suspect, {noisy.is_noisy[suspects].float().mean():.0%} of them are wrong")
