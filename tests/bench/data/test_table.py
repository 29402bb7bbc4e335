"""Own data from tables: which column is what, labels by name, images, texts and numbers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from alignprune.bench.data import ClassificationData, Texts, limit, load, table
from alignprune.noise import instance_dependent

Items = Callable[[Dataset], tuple[torch.Tensor, list[int]]]
Check = Callable[[ClassificationData], None]


def numbers(n: int = 12, **columns: Any) -> pd.DataFrame:
    """Rows of two numbers and a label, and further columns."""
    rng = np.random.default_rng(0)
    return pd.DataFrame({"label": [f"c{i % 3}" for i in range(n)], "a": rng.normal(size=n), "b": range(n)} | columns)


def write(folder: Path, frame: pd.DataFrame, name: str = "own.csv") -> str:
    file = folder / name
    if file.suffix == ".parquet":
        frame.to_parquet(file)
    else:
        frame.to_csv(file, index=False, sep="\t" if file.suffix == ".tsv" else ",")
    return str(file)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight images of their own red, in a folder beside the table."""
    (tmp_path / "pictures").mkdir()
    for i in range(8):
        Image.new("RGB", (20, 12), (30 * i, 7, 3)).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path


def pictures(rows: int = 8, **columns: Any) -> pd.DataFrame:
    names = [f"pictures/{i}.png" for i in range(rows)]
    return pd.DataFrame({"path": names, "label": [("cat", "dog")[i % 2] for i in range(rows)]} | columns)


# -- numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["own.csv", "own.tsv", "own.parquet"])
def test_numbers_are_standardised_by_the_training_rows(
    tmp_path: Path, name: str, items: Items, check_consistent: Check
) -> None:
    frame = numbers(split=["train"] * 9 + ["test"] * 3)
    data = load(write(tmp_path, frame, name))
    check_consistent(data)
    assert (data.class_names, data.input_shape, data.name) == (("c0", "c1", "c2"), (2,), "own")
    values = frame[["a", "b"]].to_numpy(dtype=float)
    scaled = (values - values[:9].mean(0)) / values[:9].std(0)
    torch.testing.assert_close(items(data.train)[0], torch.tensor(scaled[:9], dtype=torch.float32))
    assert data.test is not None
    x, y = items(data.test)
    torch.testing.assert_close(x, torch.tensor(scaled[9:], dtype=torch.float32))
    assert (data.labels.tolist(), y) == ([0, 1, 2] * 3, [0, 1, 2])


def test_a_frame_is_a_table_and_is_not_changed(items: Items) -> None:
    frame = numbers().set_index(np.arange(12) + 50)
    before = frame.copy()
    data = table(frame, label="label", features=["b"])
    pd.testing.assert_frame_equal(frame, before)
    assert (data.input_shape, data.name, data.test, data.ids) == ((1,), "table", None, None)
    expected = (torch.arange(12.0) - 5.5) / torch.arange(12.0).std(correction=0)
    torch.testing.assert_close(items(data.train)[0][:, 0], expected)


def test_added_noise_makes_the_labels_of_the_table_the_clean_ones(tmp_path: Path, check_consistent: Check) -> None:
    frame = numbers(33, split=["train"] * 30 + ["test"] * 3)
    data = load(write(tmp_path, frame), noise="symmetric", noise_rate=0.3, seed=1)
    check_consistent(data)
    assert data.noise is not None
    assert data.clean_labels is not None
    assert data.clean_labels.tolist() == [i % 3 for i in range(30)]
    assert data.noise.noise_rate == pytest.approx(0.3)


def test_wrong_labels_can_depend_on_the_numbers_of_the_training_rows(tmp_path: Path) -> None:
    frame = numbers(60, split=["train"] * 50 + ["test"] * 10)
    data = load(write(tmp_path, frame), noise="instance-dependent", noise_rate=0.4, seed=2)
    clean, samples = torch.arange(50) % 3, torch.tensor(frame[["a", "b"]].to_numpy(dtype=float)[:50])
    assert torch.equal(data.labels, instance_dependent(clean, 3, 0.4, 2, samples))


def test_wrong_labels_cannot_depend_on_samples_that_are_no_numbers(photos: Path) -> None:
    texts = pd.DataFrame({"text": list("abcd"), "label": ["x", "y"] * 2})
    for file in (write(photos, pictures()), write(photos, texts, "texts.csv")):
        with pytest.raises(ValueError, match="for samples that are files or texts, expected numbers.*give them as"):
            load(file, noise="instance-dependent", noise_rate=0.4)


def test_a_column_of_lists_gives_a_feature_for_each_number(tmp_path: Path, items: Items) -> None:
    vectors = np.random.default_rng(1).normal(size=(12, 4))
    frame = pd.DataFrame({"label": [f"c{i % 3}" for i in range(12)], "vector": list(vectors)})
    data = load(write(tmp_path, frame, "own.parquet"))
    scaled = (vectors - vectors.mean(0)) / vectors.std(0)
    torch.testing.assert_close(items(data.train)[0], torch.tensor(scaled, dtype=torch.float32))
    frame["vector"] = [*vectors[:11], vectors[11][:3]]
    with pytest.raises(ValueError, match=r"column='vector' .* holds 4 numbers in row=0 and 3 in row=11"):
        table(frame)


def test_columns_that_hold_no_numbers_are_said_to_be_left_out(tmp_path: Path) -> None:
    file = write(tmp_path, numbers(colour=["red", "blue"] * 6, size=[1, 2, 3, "?"] * 3))
    with pytest.warns(UserWarning, match=r"columns that nothing reads \(colour, size\)"):
        assert load(file).input_shape == (2,)
    with pytest.raises(ValueError, match=r"column='size' .* holds '\?' in row=3 .*, expected numbers"):
        load(f"{file}?features=a,size")
    assert load(f"{file}?features=b").input_shape == (1,)
    with pytest.raises(ValueError, match="column='a' of source holds '1' in row=0"):
        table(numbers(a=["1"] * 12), features=["a"])


@pytest.mark.parametrize("value", ["", "NA", "inf"])
def test_a_missing_number_is_refused_with_its_row(tmp_path: Path, value: str) -> None:
    frame = numbers().astype({"a": object})
    frame.loc[[4, 7], "a"] = value
    with pytest.raises(ValueError, match=r"column='a' .* no finite number in 2 rows, the first row=4 .*\?features=A,B"):
        load(write(tmp_path, frame))


# -- labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["own.csv", "own.parquet"])
def test_labels_may_be_numbers_and_keep_their_order(tmp_path: Path, form: str) -> None:
    data = load(write(tmp_path, numbers(label=[10, 9, 2, 10] * 3), form))
    assert data.class_names == ("2", "9", "10")
    assert data.labels.tolist() == [2, 1, 0, 2] * 3


def test_words_that_mean_missing_elsewhere_are_labels(tmp_path: Path) -> None:
    data = load(write(tmp_path, numbers(label=["NA", "None", "nan", "001"] * 3)))
    assert data.class_names == ("001", "NA", "None", "nan")


def test_labels_that_differ_by_blanks_or_unicode_form_alone_are_one(tmp_path: Path) -> None:
    data = load(write(tmp_path, numbers(label=["café", "cafe\u0301 ", " dog", "dog"] * 3)))
    assert data.class_names == ("café", "dog")
    assert data.labels.tolist() == [0, 0, 1, 1] * 3


def test_a_missing_label_is_refused_with_the_number_of_them(tmp_path: Path) -> None:
    labels = ["a", "b", "", "a", None, "b"] * 2
    for data in (write(tmp_path, numbers(label=labels)), numbers(label=labels)):
        with pytest.raises(ValueError, match=r"column='label' .* no label in 4 of 12 rows, the first in row=2"):
            table(data)


@pytest.mark.parametrize(
    "labels, match",
    [
        ([0.5, 1.0] * 6, "holds 0.5, expected a string or an integer a row"),
        ([["a"], ["b"]] * 6, "holds list values, expected a string or an integer"),
        (["a"] * 12, "has the class a alone, expected at least two"),
        ([], "holds no label to train on, expected those of two classes at least: add rows"),
    ],
)
def test_what_is_no_label_is_refused(labels: list[Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        table(numbers(len(labels), label=labels))


def test_whole_floats_and_truth_values_are_labels() -> None:
    assert table(numbers(label=[2.0, 1.0] * 6)).class_names == ("1", "2")
    assert table(numbers(label=[True, False] * 6)).class_names == ("False", "True")


def test_the_label_column_is_chosen_or_missed_by_name(tmp_path: Path) -> None:
    file = write(tmp_path, numbers().rename(columns={"label": "kind"}))
    assert load(f"{file}?label=kind").class_names == ("c0", "c1", "c2")
    with pytest.raises(ValueError, match=r"has the columns kind, a, b, expected one called label: .*\?label=COLUMN"):
        load(file)
    with pytest.raises(ValueError, match="column='kid' is unknown, .* did you mean 'kind'"):
        load(f"{file}?label=kid")
    with pytest.raises(ValueError, match="option='labels' is unknown, expected one of label, path"):
        load(f"{file}?labels=kind")
    with pytest.raises(ValueError, match="option='label' is given twice"):
        load(f"{file}?label=kind&label=a")
    with pytest.raises(ValueError, match="option='features' is empty"):
        load(f"{file}?label=kind&features=")
    with pytest.raises(ValueError, match="column='b' .* is the label and a part of the samples, too"):
        load(f"{file}?label=b&features=a,b")


# -- images ------------------------------------------------------------------------------------------------


def test_paths_start_from_the_folder_of_the_table(photos: Path, monkeypatch: pytest.MonkeyPatch, items: Items) -> None:
    file = write(photos, pictures(split=["train"] * 6 + ["test"] * 2))
    data = load(file, image_size=8)
    assert (data.input_shape, data.labels.tolist()) == ((3, 8, 8), [0, 1] * 3)
    assert list(data.ids or ()) == [f"pictures/{i}.png" for i in range(6)]
    assert all(name.startswith("pictures/") for name in limit(data, 2, 0).ids or "?")
    red = items(data.train_eval)[0][:, 0, 0, 0] * 0.229 + 0.485
    torch.testing.assert_close(red * 255, torch.arange(6) * 30.0, atol=1e-3, rtol=0)
    monkeypatch.chdir(photos)
    assert torch.equal(items(load("own.csv", image_size=8).train_eval)[0], items(data.train_eval)[0])
    assert torch.equal(items(table(pictures(6), image_size=8).train_eval)[0], items(data.train_eval)[0])
    assert len(table(pictures(), image_size=8, folder=photos).labels) == 8


def test_absolute_paths_and_other_columns_are_taken(photos: Path) -> None:
    frame = pictures().rename(columns={"path": "file"})
    frame["file"] = [str(photos / name) for name in frame["file"]]
    data = load(f"{write(photos, frame)}?path=file", image_size=8)
    assert data.train_eval[3][1] == 1


def test_images_that_are_not_there_are_counted_and_the_first_is_named(photos: Path) -> None:
    frame = pictures()
    frame.loc[[2, 5], "path"] = ["pictures/lost.png", "nowhere/5.png"]
    with pytest.raises(
        FileNotFoundError, match=r"names 2 files that are not there \(.*lost\.png, .*5\.png\), the first in row=2"
    ):
        load(write(photos, frame))


def test_a_file_listed_twice_is_refused(photos: Path) -> None:
    frame = pictures()
    frame.loc[6, "path"] = "pictures/../pictures/1.png"
    with pytest.raises(ValueError, match=r"1\.png' is the file of row=1 and row=6 .* 1 rows repeat another"):
        load(write(photos, frame))


def test_a_row_without_a_file_is_refused(photos: Path) -> None:
    frame = pictures()
    frame.loc[4, "path"] = None
    for data in (write(photos, frame), write(photos, frame, "own.parquet")):
        with pytest.raises(ValueError, match=r"names no file in 1 rows, the first row=4"):
            load(data)


def test_a_reference_with_a_copy_of_a_test_image_is_refused(photos: Path) -> None:
    (photos / "pictures/7.png").write_bytes((photos / "pictures/6.png").read_bytes())
    file = write(photos, pictures(split=["train"] * 6 + ["test", "reference"]))
    with pytest.raises(ValueError, match="1 of its 1 samples in the test set, too"):
        load(file, image_size=8)


# -- texts -------------------------------------------------------------------------------------------------


def test_texts_stay_as_they_are(tmp_path: Path) -> None:
    words = ['a "quoted" text, with commas', "two\nlines", "", "NA", "naïve 😀", "x"]
    frame = pd.DataFrame({"text": words, "label": ["p", "n"] * 3, "split": ["train"] * 5 + ["test"]})
    for file in (write(tmp_path, frame), write(tmp_path, frame, "own.parquet")):
        with pytest.warns(UserWarning, match="column='text' .* has no text in 1 of 6 rows, the first row=2"):
            data = load(file)
        assert isinstance(data.train, Texts)
        assert list(data.train.texts) == words[:5]
        assert (data.input_shape, data.labels.tolist(), data.class_names) == ((), [1, 0, 1, 0, 1], ("n", "p"))
        assert data.train_eval[4] == ("naïve 😀", 1)
        assert data.test is not None
        assert data.test[0] == ("x", 0)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"column='a' .* in row=0 .*, expected strings"):
        table(numbers()[["a", "label"]], text="a")


def test_a_sample_is_one_of_image_text_and_numbers(photos: Path) -> None:
    file = write(photos, pictures(text=["words"] * 8))
    with pytest.raises(ValueError, match=r"gives path and text, expected one of them"):
        load(file)
    with pytest.warns(UserWarning, match=r"nothing reads \(path\)"):
        assert isinstance(load(f"{file}?text=text").train, Texts)
    with pytest.raises(ValueError, match="has the columns label, expected one called path or text, or some of numbers"):
        table(pd.DataFrame({"label": ["a", "b"]}))


# -- splits and ids ----------------------------------------------------------------------------------------


def test_every_row_goes_to_its_split_and_keeps_its_class_id() -> None:
    split = ["reference", "train", "test", "Train ", "train", "train"] * 2
    data = table(numbers(split=split))
    assert data.labels.tolist() == [1, 0, 1, 2] * 2
    assert data.test is not None
    assert data.reference is not None
    assert [data.test[i][1] for i in range(2)] == [2, 2]
    assert [data.reference[i][1] for i in range(2)] == [0, 0]
    assert data.places is not None
    assert data.places.tolist() == [1, 3, 4, 5, 7, 9, 10, 11]
    assert data.ids is None


@pytest.mark.parametrize("word", ["val", "valid", "validation"])
def test_validation_rows_stand_in_for_missing_test_rows(word: str) -> None:
    data = table(numbers(split=["train"] * 9 + [word] * 3))
    assert len(data.test) == 3  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="has 2 rows for validation, which nothing reads"):
        assert len(table(numbers(split=["train"] * 9 + [word] * 2 + ["test"])).test) == 1  # type: ignore[arg-type]


def test_a_split_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"column='split' .* says 'dev' in row=9 .*expected one of train, test,"):
        table(numbers(split=["train"] * 9 + ["dev"] * 3))
    with pytest.raises(ValueError, match="says train in no row"):
        table(numbers(split=["test"] * 12))


def test_a_class_that_training_lacks_is_refused() -> None:
    labels = ["a", "b"] * 5 + ["a", "z"]
    with pytest.raises(ValueError, match=r"has the classes z, first in row=11 .* which no training row has, .*a, b"):
        table(numbers(label=labels, split=["train"] * 10 + ["test"] * 2))


def test_samples_have_the_ids_of_their_column(tmp_path: Path) -> None:
    keys = [f"{i:03d}" for i in range(12)]
    file = write(tmp_path, numbers(id=keys, key=[f"k{i}" for i in range(12)]))
    with pytest.warns(UserWarning, match=r"nothing reads \(key\)"):
        assert list(load(file).ids or ()) == keys
    assert list(load(f"{file}?id=key&features=a").ids or ())[3] == "k3"


def test_an_id_that_two_rows_have_or_one_lacks_is_refused(tmp_path: Path) -> None:
    twice = numbers(id=[f"k{i}" for i in range(10)] + ["k3", "k4"])
    with pytest.raises(ValueError, match=r"'k3' is the id of row=3 and row=10 .* 2 rows repeat another"):
        load(write(tmp_path, twice))
    with pytest.raises(ValueError, match=r"column='id' .* no value in 1 rows, the first row=11"):
        load(write(tmp_path, numbers(id=[f"k{i}" for i in range(11)] + [None])))


# -- the file ----------------------------------------------------------------------------------------------


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_bytes("label,a\r\ncafé,1\r\nb,2\r\n".encode("utf-8-sig"))
    data = load(tmp_path / "own.csv")
    assert (data.class_names, data.input_shape) == (("b", "café"), (1,))
    (tmp_path / "own.csv").write_text("label;a\nx;1\ny;2\n")
    with pytest.raises(ValueError, match="seems to be separated by semicolons, expected commas"):
        load(tmp_path / "own.csv")
    (tmp_path / "own.csv").write_bytes("label,a\ncafé,1\nb,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"own\.csv' cannot be read \(UnicodeDecodeError.* UTF-8"):
        load(tmp_path / "own.csv")


@pytest.mark.parametrize("name", ["own.csv", "own.tsv", "own.parquet"])
def test_what_stands_in_the_place_of_a_table_is_told(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    with pytest.raises(FileNotFoundError, match=rf"{name}' is not there, expected a table"):
        load(file)
    for text, match in (("version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"), ("<html>", "web page")):
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"{name}' is a {match}"):
            load(f"{file}?label=kind")
    file.write_bytes(b'label,"a\n1')
    with pytest.raises(ValueError, match=rf"{name}' (cannot be read|has the columns)"):
        load(file)


def test_rows_that_are_longer_than_the_header_are_refused_and_not_shifted(tmp_path: Path) -> None:
    for rows in ("x,1\ny,2,3\n", "x,1,7\ny,2,8\n"):
        (tmp_path / "own.csv").write_text(f"label,a\n{rows}")
        with pytest.raises(ValueError, match=r"own\.csv' cannot be read \(Parser"):
            load(tmp_path / "own.csv")


def test_blanks_around_the_names_of_columns_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("label , a\nx, 1\ny, 2\n")
    data = load(tmp_path / "own.csv")
    assert (data.class_names, data.input_shape) == (("x", "y"), (1,))


@pytest.mark.parametrize("value", [1 + 2j, np.ones((2, 2)), pd.Timestamp("2020-01-01"), "word", ["word"], None])
def test_what_is_no_number_is_no_feature(value: Any) -> None:
    frame = numbers().drop(columns="b")
    frame["other"] = [value] * 12
    with pytest.warns(UserWarning, match=r"nothing reads \(other\)"):
        assert table(frame).input_shape == (1,)


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("label,a,a\nx,1,2\ny,2,3\n")
    with pytest.raises(ValueError, match=r"own\.csv' .*[Dd]uplicate"):
        load(tmp_path / "own.csv")
    frame = numbers()
    frame.columns = ["label", "a", "a"]
    with pytest.raises(ValueError, match="has the columns label, a, a, expected a string each, once"):
        table(frame)
