"""Own data from a Hugging Face data set: splits, columns, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Features, Value
from datasets import Image as ImageType
from PIL import Image
from torch.utils.data import Dataset

from alignprune.bench.data import ClassificationData, huggingface, load
from alignprune.bench.data.transforms import IMAGENET_MEAN, IMAGENET_STD

Items = Callable[[Dataset], tuple[torch.Tensor, list[int]]]
Check = Callable[[ClassificationData], None]

KIND = ClassLabel(names=["ant", "bee", "cat"])


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def photos(n: int, mode: str = "RGB") -> list[Image.Image]:
    return [Image.new("RGB", (20, 12), (10 * i, 7, 3)).convert(mode) for i in range(n)]


def table(n: int, columns: dict[str, list[Any]] | None = None, features: Features | None = None) -> datasets.Dataset:
    """A split of photos of growing redness, with ascending class ids, and further columns."""
    given = {"photo": photos(n), "kind": [i % 3 for i in range(n)]} | (columns or {})
    types = Features(photo=ImageType(), kind=KIND) | (features or {})
    return datasets.Dataset.from_dict(given, features=Features(types))


def save(path: Path, **splits: datasets.Dataset) -> str:
    datasets.DatasetDict(**splits).save_to_disk(path / "own")
    return str(path / "own")


def test_columns_are_found_by_their_types(tmp_path: Path, items: Items, check_consistent: Check) -> None:
    path = save(tmp_path, train=table(7), test=table(3))
    data = load(f"hf:{path}", image_size=8)
    check_consistent(data)
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert items(data.test)[1] == [0, 1, 2]
    assert (data.num_classes, data.input_shape, data.name) == (3, (3, 8, 8), "own")
    assert (data.clean_eval, data.noise, data.reference) == (None, None, None)
    colours = np.array([[10 * i, 7, 3] for i in range(7)]) / 255
    expected = torch.tensor((colours - IMAGENET_MEAN) / IMAGENET_STD, dtype=torch.float32)
    torch.testing.assert_close(items(data.train_eval)[0], expected[:, :, None, None].expand(7, 3, 8, 8))


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    more = {"mask": photos(6), "coarse": [0, 0, 1, 1, 2, 3]}, Features(mask=ImageType(), coarse=Value("int64"))
    path = save(tmp_path, train=table(6, *more), validation=table(6, *more))
    data = huggingface(f"{path}?label=coarse&image=mask", image_size=8)
    assert (data.labels.tolist(), data.num_classes) == ([0, 0, 1, 1, 2, 3], 4)
    assert len(data.test) == 6  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"2 columns of type Image \(photo, mask\) .* as in hf:NAME\?image=COLUMN"):
        huggingface(path)
    with pytest.raises(ValueError, match="column='fine' is unknown, .*kind, mask, coarse"):
        huggingface(f"{path}?image=photo&label=fine")
    with pytest.raises(ValueError, match="option='images' is unknown, expected one of image, label"):
        huggingface(f"{path}?images=photo")
    with pytest.raises(ValueError, match="column='coarse' is of type Value, expected Image"):
        huggingface(f"{path}?image=coarse")


def test_a_reference_split_and_added_noise(tmp_path: Path, items: Items, check_consistent: Check) -> None:
    path = save(tmp_path, train=table(12), test=table(3), validation=table(4), reference=table(2))
    data = load(f"hf:{path}", noise="pairflip", noise_rate=0.5, seed=1, image_size=8)
    check_consistent(data)
    assert data.noise is not None
    assert data.noise.noise_rate == 0.5
    assert data.clean_eval is not None
    assert data.reference is not None
    assert items(data.reference)[1] == [0, 1]
    assert len(data.test) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_every_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    train = table(3, {"photo": photos(3, mode)})
    data = huggingface(save(tmp_path, train=train, test=table(3)), image_size=8)
    assert data.train[0][0].shape == (3, 8, 8)


def test_a_selection_of_rows_keeps_images_and_labels_together(tmp_path: Path, items: Items) -> None:
    path = save(tmp_path, train=table(6).select([5, 0, 4]), test=table(3))
    data = huggingface(path, image_size=8)
    assert data.labels.tolist() == [2, 0, 1]
    red = items(data.train_eval)[0][:, 0, 0, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
    torch.testing.assert_close(red * 255, torch.tensor([50.0, 0.0, 40.0]), atol=1e-3, rtol=0)


def test_views_can_be_pickled(tmp_path: Path) -> None:
    data = huggingface(save(tmp_path, train=table(6), test=table(3)), image_size=8)
    assert pickle.loads(pickle.dumps(data.train))[4][1] == 1


def test_a_corrupt_image_names_its_row(tmp_path: Path) -> None:
    train = table(3)
    broken = train.cast_column("photo", ImageType(decode=False)).to_dict()
    broken["photo"][1] = {"bytes": broken["photo"][1]["bytes"][:60], "path": None}
    train = datasets.Dataset.from_dict(broken, features=train.features)
    data = huggingface(save(tmp_path, train=train, test=table(3)), image_size=8)
    assert data.train[0][1] == 0
    with pytest.raises(ValueError, match="row=1 of split train cannot be read"):
        data.train[1]


def test_labels_that_are_no_class_ids_are_named(tmp_path: Path) -> None:
    hidden = table(4, {"kind": [0, 1, -1, 2]}, Features(kind=Value("int64")))
    path = save(tmp_path, train=table(6), test=hidden)
    with pytest.raises(ValueError, match=r"row=2 of split test has the label -1, expected 0 to 2"):
        huggingface(path)
    unlabelled = table(3, {"kind": [0, None, 1]})
    with pytest.raises(ValueError, match="column='kind' of split test holds float32 values"):
        huggingface(save(tmp_path / "b", train=table(6), test=unlabelled))
    words = table(3, {"kind": ["a", "b", "c"]}, Features(kind=Value("string")))
    with pytest.raises(ValueError, match="expected one class id a row: use class_encode_column"):
        huggingface(save(tmp_path / "c", train=words, test=words) + "?label=kind")
    with pytest.raises(ValueError, match="split='test' is without the column photo"):
        huggingface(save(tmp_path / "d", train=table(6), test=table(3).remove_columns("photo")))


def test_missing_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds the splits train, unsupervised, expected train and test"):
        huggingface(save(tmp_path, train=table(3), unsupervised=table(3)))


def test_what_cannot_be_loaded_is_told_plainly(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'hf:.*nothing' cannot be loaded .* the Hub needs the network"):
        load(f"hf:{tmp_path / 'nothing'}")
