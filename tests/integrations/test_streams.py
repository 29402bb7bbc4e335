"""Streams of three kinds: every selected sample is read once an epoch, and only those are decoded."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import alignprune as ap
from alignprune.integrations.streams import Keys, Selected, SelectedStream

N, EPOCHS, BATCH, SHARDS = 60, 4, 8, 6


def content(sample: int) -> float:
    """What a sample holds; its loss is a function of it, so that a loss at a wrong index shows."""
    return 0.25 + (sample * 37 % N) / N


def loss_of(x: torch.Tensor, epoch: int) -> torch.Tensor:
    return x.float() * (epoch + 1)


def make() -> ap.Pruner:
    return ap.Pruner.from_preset("infobatch", num_samples=N, epochs=EPOCHS, delta=1.0)


def check(pruner: ap.Pruner, loader: Any) -> None:
    """Train to the end: each epoch reads its selection, each loss is that of its sample."""
    shares = []
    for epoch in range(EPOCHS):
        read: Counter[int] = Counter()
        before = pruner.scores.clone()
        for index, x in loader:
            pruner.reduce(index, loss_of(x, epoch))
            read.update(index.tolist())
        selected = pruner.selection.indices.tolist()
        assert read == Counter(selected)
        pruner.end_epoch()
        for sample in range(N):
            expected = content(sample) * (epoch + 1) if sample in read else float(before[sample])
            assert float(pruner.scores[sample]) == pytest.approx(expected, rel=1e-6)
        shares.append(len(selected))
    assert min(shares) < N


class Shards(IterableDataset[dict[str, Any]]):
    """Raw samples; every worker process reads its own shards."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for shard in range(first, SHARDS, step):
            for sample in range(shard, N, SHARDS):
                yield {"id": sample, "raw": str(content(sample))}


class Everywhere(Shards):
    """A data set that forgets its workers: each reads all."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([{"id": sample, "raw": str(content(sample))} for sample in range(N)])


def decode(sample: dict[str, Any]) -> float:
    return float(sample["raw"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_of_ones_own(workers: int) -> None:
    pruner = make()
    data = SelectedStream(Shards(), pruner.stream, "id", decode)
    check(pruner, DataLoader(data, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0))


def test_only_the_samples_of_the_epoch_are_decoded() -> None:
    pruner, decoded = make(), []

    def counted(sample: dict[str, Any]) -> float:
        decoded.append(sample["id"])
        return decode(sample)

    loader = DataLoader(SelectedStream(Shards(), pruner.stream, lambda sample: sample["id"], counted), batch_size=BATCH)
    for epoch in range(EPOCHS):
        decoded.clear()
        for index, x in loader:
            pruner.reduce(index, loss_of(x, epoch))
        assert sorted(decoded) == pruner.selection.indices.tolist()
        pruner.end_epoch()


def test_a_stream_that_forgets_its_workers_is_refused_in_the_first_epoch() -> None:
    pruner = make()
    loader = DataLoader(SelectedStream(Everywhere(), pruner.stream, "id", decode), batch_size=BATCH, num_workers=2)

    def epoch() -> None:
        for index, x in loader:
            pruner.reduce(index, loss_of(x, 0))

    with pytest.raises(RuntimeError, match="which were read in epoch 0 already, expected every sample once"):
        epoch()


def test_what_cannot_be_iterated_anew_is_refused() -> None:
    with pytest.raises(TypeError, match="dataset is list_iterator, expected what can be iterated anew in every epoch"):
        SelectedStream(iter([1, 2]), make().stream, "id")


def test_a_sample_without_its_id_is_refused_with_the_fields_it_has() -> None:
    stream = make().stream
    with pytest.raises(ValueError, match="id='key' is no field of a sample of id, raw, expected the one that holds"):
        next(iter(SelectedStream(Shards(), stream, "key")))
    with pytest.raises(TypeError, match="id=3 is int, expected the name of a field, or a function"):
        Selected(stream, 3)  # type: ignore[arg-type]


# Hugging Face.


def rows(shards: list[int]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        for sample in range(shard, N, SHARDS):
            yield {"id": sample, "x": content(sample)}


def numbered(example: dict[str, Any]) -> tuple[int, float]:
    return example["id"], example["x"]


def pairs(examples: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([row["id"] for row in examples]), torch.tensor([row["x"] for row in examples])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_data_set_of_hugging_face(workers: int) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the library datasets")
    pruner = make()
    data = datasets.IterableDataset.from_generator(rows, gen_kwargs={"shards": list(range(SHARDS))})
    data = data.shuffle(seed=0, buffer_size=16).filter(Selected(pruner.stream, "id"))
    loader = DataLoader(data, batch_size=BATCH, collate_fn=pairs, num_workers=workers, persistent_workers=workers > 0)
    check(pruner, loader)


# webdataset.


def written(folder: Path) -> list[str]:
    paths = []
    for shard in range(SHARDS):
        path = folder / f"{shard}.tar"
        with tarfile.open(path, "w") as tar:
            for sample in range(shard, N, SHARDS):
                data = str(content(sample)).encode()
                member = tarfile.TarInfo(f"{sample:06d}.txt")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        paths.append(str(path))
    return paths


def key_number(sample: dict[str, Any]) -> int:
    return int(sample["__key__"])


def item(sample: dict[str, Any]) -> tuple[int, float]:
    return int(sample["__key__"]), float(sample["txt"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pipeline_of_webdataset(workers: int, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="needs the library webdataset")
    pruner = make()
    data = wds.WebDataset(written(tmp_path), shardshuffle=SHARDS, seed=0)
    data = data.select(Selected(pruner.stream, key_number)).decode().map(item)
    loader = DataLoader(data, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0)
    check(pruner, loader)


# Keys.


def test_keys_are_numbered_in_their_order() -> None:
    names = [f"n{i:08d}_{i * 7}.JPEG" for i in range(5000)]
    keys = Keys(iter(names))
    assert len(keys) == 5000
    assert [keys[name] for name in names] == list(range(5000))


def test_a_key_that_is_there_twice_or_not_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="keys hold the same key at 0 and 2, expected each once"):
        Keys(["a", "b", "a", "c"])
    with pytest.raises(ValueError, match="key='z' is not among the 3 keys"):
        Keys(["a", "b", "c"])["z"]
    with pytest.raises(ValueError, match="key='z' is not among the 0 keys"):
        Keys([])["z"]


def test_a_stream_by_key() -> None:
    keys = Keys(f"image-{content(sample)}" for sample in range(N))
    pruner = make()
    data = SelectedStream(Shards(), pruner.stream, lambda sample: keys[f"image-{sample['raw']}"], decode)
    check(pruner, DataLoader(data, batch_size=BATCH))
