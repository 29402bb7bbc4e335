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

from alignprune.bench.data import ClassificationData, Texts, huggingface, limit, load
from alignprune.bench.data.huggingface import TableImages
from alignprune.bench.data.raw import read as read_raw
from alignprune.bench.data.transforms import IMAGENET_MEAN, IMAGENET_STD, photo_transforms

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
    with pytest.raises(ValueError, match="option='images' is unknown, expected one of label, image"):
        huggingface(f"{path}?images=photo")
    with pytest.raises(ValueError, match="column='coarse' is of type int64, expected Image"):
        huggingface(f"{path}?image=coarse")


def test_a_reference_split_and_added_noise(tmp_path: Path, items: Items, check_consistent: Check) -> None:
    path = save(tmp_path, train=table(12), test=table(3), validation=table(4), reference=table(2))
    with pytest.warns(UserWarning, match="has the splits validation, which nothing reads"):
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
    with pytest.raises(ValueError, match=r"row=1 of split train of 'hf:.*' cannot be read"):
        data.train[1]


def test_rows_without_a_label_are_counted(tmp_path: Path) -> None:
    for labels in ([0, 1, -1, 2], [0, 1, None, 2]):
        path = save(tmp_path / str(labels), train=table(6), test=table(4, {"kind": labels}))
        with pytest.raises(ValueError, match=r"column='kind' of split test has no label in 1 of 4 rows, .* row=2"):
            huggingface(path)
    with pytest.raises(ValueError, match="split='test' is without the column photo"):
        huggingface(save(tmp_path / "d", train=table(6), test=table(3).remove_columns("photo")))


def test_a_single_split_is_for_training(tmp_path: Path) -> None:
    table(6).save_to_disk(tmp_path / "alone")
    for path in (str(tmp_path / "alone"), save(tmp_path, train=table(6)), save(tmp_path / "b", everything=table(6))):
        data = huggingface(path, image_size=8)
        assert (data.labels.tolist(), data.test) == ([0, 1, 2, 0, 1, 2], None)


def test_splits_that_nothing_reads_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds the splits one, two, expected one called train"):
        huggingface(save(tmp_path, one=table(3), two=table(3)))
    with pytest.warns(UserWarning, match="has the splits unsupervised, which nothing reads"):
        assert huggingface(save(tmp_path / "b", train=table(6), unsupervised=table(3)), image_size=8).test is None


# -- classes by name ---------------------------------------------------------------------------------------


def test_the_same_name_is_the_same_class_whatever_number_a_split_gives_it(tmp_path: Path, items: Items) -> None:
    fewer = table(4, {"kind": [1, 0, 1, 0]}, Features(kind=ClassLabel(names=["bee", "cat"])))
    data = huggingface(save(tmp_path, train=table(6), test=fewer), image_size=8)
    assert data.class_names == ("ant", "bee", "cat")
    assert data.test is not None
    assert items(data.test)[1] == [2, 1, 2, 1]


def test_a_class_that_training_does_not_name_is_refused(tmp_path: Path) -> None:
    other = table(2, {"kind": [0, 1]}, Features(kind=ClassLabel(names=["bee", "cow"])))
    with pytest.raises(ValueError, match=r"split test has the classes cow, first in row=1 .* no training row has"):
        huggingface(save(tmp_path, train=table(6), test=other))
    plain = table(2, {"kind": [0, 1]}, Features(kind=Value("int64")))
    with pytest.raises(ValueError, match=r"split test has the classes 0, 1, .* expected none but ant, bee, cat"):
        huggingface(save(tmp_path / "b", train=table(6), test=plain))


def test_a_class_that_is_named_and_has_no_training_row_is_a_class(tmp_path: Path) -> None:
    data = huggingface(save(tmp_path, train=table(4, {"kind": [2, 1, 2, 1]})), image_size=8)
    assert (data.num_classes, data.labels.tolist()) == (3, [2, 1, 2, 1])


def test_labels_may_be_strings(tmp_path: Path, items: Items) -> None:
    def words(*labels: str) -> datasets.Dataset:
        return table(len(labels), {"kind": list(labels)}, Features(kind=Value("string"))).rename_column("kind", "label")

    data = huggingface(save(tmp_path, train=words("dog", "ant", "dog"), test=words("dog")), image_size=8)
    assert (data.class_names, data.labels.tolist()) == (("ant", "dog"), [1, 0, 1])
    assert data.test is not None
    assert items(data.test)[1] == [1]


def test_a_label_out_of_the_range_of_its_names_is_refused(tmp_path: Path) -> None:
    wrong = table(3, {"kind": [0, 5, 1]}, Features(kind=Value("int64")))
    wrong.info.features["kind"] = KIND
    said = r"own': row=1 of split train has the label 5, expected 0 to 2"
    with pytest.raises(ValueError, match=said):
        huggingface(save(tmp_path, train=wrong))
    with pytest.raises(ValueError, match=said):  # and by who predicts
        read_raw(f"hf:{tmp_path / 'own'}", photo_transforms(8).preparation, ("ant", "bee", "cat"))


@pytest.mark.parametrize("hidden", [{"kind": [-1, -1]}, {"kind": [None, None]}, {}])
def test_validation_takes_the_place_of_a_test_split_without_labels(
    tmp_path: Path, hidden: dict[str, Any], items: Items
) -> None:
    test = table(2, hidden) if hidden else table(2).remove_columns("kind")
    path = save(tmp_path, train=table(6), test=test, validation=table(3))
    with pytest.warns(UserWarning, match="split='test' has no labels, .*: validation takes its place"):
        data = huggingface(path, image_size=8)
    assert data.test is not None
    assert items(data.test)[1] == [0, 1, 2]
    with pytest.warns(UserWarning, match="split='test' has no labels, .*: there is no test split"):
        assert huggingface(save(tmp_path / "b", train=table(6), test=test), image_size=8).test is None


# -- texts, numbers, ids -----------------------------------------------------------------------------------


def rows(**columns: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize("name, query", [("text", ""), ("sentence", ""), ("sentence", "?text=sentence")])
def test_texts_stay_as_they_are(tmp_path: Path, name: str, query: str) -> None:
    words = ["one", "two\nlines", "naïve 😀", "NA"]
    train = rows(**{name: words, "label": [1, 0, 1, 0], "idx": [0, 1, 2, 3]})
    data = huggingface(save(tmp_path, train=train, test=train) + query)
    assert isinstance(data.train, Texts)
    assert list(data.train.texts) == words
    assert (data.labels.tolist(), data.input_shape, data.class_names) == ([1, 0, 1, 0], (), ("0", "1"))
    assert data.test is not None
    assert data.test[2] == ("naïve 😀", 1)


def test_a_row_without_a_text_stays_and_is_counted(tmp_path: Path) -> None:
    path = save(tmp_path, train=rows(text=["one", None, "two", " "], label=[0, 1, 0, 1]))
    with pytest.warns(UserWarning, match="column='text' of split train has no text in 2 of 4 rows, the first row=1"):
        data = huggingface(path)
    assert [data.train[i][0] for i in range(4)] == ["one", "", "two", " "]


def test_numbers_are_standardised_by_the_training_rows(tmp_path: Path, items: Items, check_consistent: Check) -> None:
    values = np.random.default_rng(0).normal(size=(9, 4))

    def part(at: slice) -> datasets.Dataset:
        return rows(
            label=[i % 2 for i in range(9)][at],
            size=values[at, 0].tolist(),
            vector=values[at, 1:].tolist(),
            name=["x"] * len(values[at]),
        )

    with pytest.warns(UserWarning, match=r"columns that nothing reads \(name\)"):
        data = huggingface(save(tmp_path, train=part(slice(6)), test=part(slice(6, 9))))
    check_consistent(data)
    scaled = (values - values[:6].mean(0)) / values[:6].std(0)
    torch.testing.assert_close(items(data.train)[0], torch.tensor(scaled[:6], dtype=torch.float32))
    assert data.test is not None
    torch.testing.assert_close(items(data.test)[0], torch.tensor(scaled[6:], dtype=torch.float32))
    assert huggingface(str(tmp_path / "own") + "?features=vector").input_shape == (3,)


def test_several_columns_of_strings_are_to_be_chosen_from(tmp_path: Path) -> None:
    path = save(tmp_path, train=rows(premise=["a", "b"], hypothesis=["c", "d"], label=[0, 1]))
    with pytest.raises(
        ValueError, match="no column of images, none called text and none of numbers among premise, hyp"
    ):
        huggingface(path)
    data = huggingface(f"{path}?text=hypothesis&id=premise")
    assert data.train[0] == ("c", 0)
    assert list(data.ids or ()) == ["a", "b"]
    with pytest.raises(ValueError, match="dataset gives text and features, expected one of them"):
        huggingface(f"{path}?text=hypothesis&features=premise")
    with pytest.raises(ValueError, match="column='label' is the label and a part of the samples, too"):
        huggingface(f"{path}?features=label")


def test_ids_are_those_of_the_chosen_column(tmp_path: Path) -> None:
    keyed = table(3, {"key": ["k1", "k2", "k3"]}, Features(key=Value("string")))
    path = save(tmp_path, train=keyed, test=keyed)
    assert huggingface(path, image_size=8).ids is None
    data = huggingface(f"{path}?id=key", image_size=8)
    assert list(limit(data, 3, 0).ids or ()) == ["k1", "k2", "k3"]
    assert data.class_names == ("ant", "bee", "cat")
    twice = table(3, {"key": ["k1", "k2", "k1"]}, Features(key=Value("string")))
    with pytest.raises(ValueError, match="'k1' is the id of row=0 and row=2"):
        huggingface(f"{save(tmp_path / 'b', train=twice)}?id=key")


# -- images as they are ------------------------------------------------------------------------------------


def test_images_are_read_as_those_of_folders(tmp_path: Path, items: Items) -> None:
    deep = Image.fromarray(np.full((9, 9), 257 * 100, dtype=np.uint16))
    clear = Image.new("RGBA", (9, 9), (0, 0, 0, 0))
    data = huggingface(save(tmp_path, train=table(2, {"photo": [deep, clear], "kind": [0, 1]})), image_size=8)
    shown = items(data.train_eval)[0][:, 0, 0, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
    torch.testing.assert_close(shown * 255, torch.tensor([100.0, 255.0]), atol=1e-3, rtol=0)


def test_images_beside_the_table_are_read_from_their_files(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{i}.png") for i in range(2)]
    for file, photo in zip(files, photos(2), strict=True):
        photo.save(file)
    images = datasets.Dataset.from_dict({"photo": files}, features=Features(photo=ImageType()))
    samples: Any = TableImages(images, "hf:own", "train", torch.tensor([0, 1]), None)
    assert (samples[1][0].getpixel((0, 0)), samples[1][1]) == ((10, 7, 3), 1)
    Path(files[1]).unlink()
    with pytest.raises(ValueError, match=r"row=1 of split train of 'hf:.*' cannot be read .FileNotFoundError"):
        samples[1]


def test_pointers_of_git_lfs_in_the_place_of_the_rows_are_told(tmp_path: Path) -> None:
    path = save(tmp_path, train=table(3))
    (file,) = (tmp_path / "own" / "train").glob("*.arrow")
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"\.arrow' is a pointer of Git LFS .*git lfs pull"):
        huggingface(path)


def test_what_cannot_be_loaded_is_told_plainly(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'hf:.*nothing' cannot be loaded .* the Hub needs the network"):
        load(f"hf:{tmp_path / 'nothing'}")
