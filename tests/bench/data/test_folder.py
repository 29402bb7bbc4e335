"""Own data from folders of image files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from alignprune.bench.data import ClassificationData, image_folder, limit, load

Items = Callable[[Dataset], tuple[torch.Tensor, list[int]]]
Check = Callable[[ClassificationData], None]


def copy_image(file: Path, target: Path) -> None:
    target.write_bytes(file.read_bytes())


def test_a_folder_gives_its_classes_in_order(folder: Path, check_consistent: Check) -> None:
    data = load(folder, image_size=16)
    check_consistent(data)
    assert data.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert (data.num_classes, data.input_shape, data.name) == (3, (3, 16, 16), folder.name)
    assert (data.clean_eval, data.noise, data.reference) == (None, None, None)


def test_a_folder_with_added_noise_knows_the_truth(folder: Path, check_consistent: Check) -> None:
    data = image_folder(folder, "symmetric", 0.5, 0, 16)
    check_consistent(data)
    assert data.clean_eval is not None
    assert data.noise is not None
    assert data.noise.noise_rate == 0.5


def test_val_stands_in_for_test_and_may_lack_classes(folder: Path, items: Items) -> None:
    (folder / "test").rename(folder / "val")
    for file in (folder / "val" / "ant").iterdir():
        file.unlink()
    (folder / "val" / "ant").rmdir()
    assert items(load(folder, image_size=16).test)[1] == [1, 1, 2, 2]


def test_a_reference_folder_keeps_the_class_ids_of_train(folder: Path, items: Items) -> None:
    (folder / "reference").mkdir()
    (folder / "test" / "cat").rename(folder / "reference" / "cat")
    data = load(folder, image_size=16)
    assert data.reference is not None
    assert items(data.reference)[1] == [2, 2]


def test_a_reference_folder_with_a_copy_of_a_test_image_is_refused(folder: Path) -> None:
    (folder / "reference" / "cat").mkdir(parents=True)
    copied, own = sorted((folder / "test" / "cat").iterdir())[0], sorted((folder / "train" / "cat").iterdir())[0]
    (folder / "reference" / "cat" / "other_name.png").write_bytes(copied.read_bytes())
    (folder / "reference" / "cat" / "own.png").write_bytes(own.read_bytes())
    with pytest.raises(ValueError, match=r"1 of its 2 samples in the test set, too .*other_name\.png"):
        load(folder, image_size=16)


def test_a_corrupt_image_names_its_file(folder: Path) -> None:
    file = folder / "train" / "bee" / "3.png"
    file.write_bytes(file.read_bytes()[:200])
    data = load(folder, image_size=16)
    with pytest.raises(ValueError, match=r"file='.*bee.3\.png' cannot be read .*replace or remove"):
        data.train[9]


def test_a_wrong_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="image_size=0 is out of range"):
        image_folder(folder, image_size=0)
    (folder / "test" / "cat").rename(folder / "test" / "cow")
    with pytest.raises(ValueError, match=r"holds the classes cow, which train/ does not have, .*ant, bee, cat"):
        load(folder)
    with pytest.raises(FileNotFoundError, match=r"nowhere' is not there, expected train/CLASS/ or CLASS/"):
        image_folder(folder / "nowhere")


def test_classes_and_samples_have_the_names_of_the_folders(folder: Path) -> None:
    data = load(folder, image_size=16)
    assert data.class_names == ("ant", "bee", "cat")
    assert data.ids is not None
    assert list(data.ids)[5:8] == ["train/ant/5.png", "train/bee/0.png", "train/bee/1.png"]
    kept = limit(data, 3, 0)
    assert list(kept.ids or ()) == [data.ids[i] for i in kept.train.indices]  # type: ignore[attr-defined]


# -- without splits ----------------------------------------------------------------------------------------


def test_folders_of_classes_alone_are_training_samples(folder: Path, items: Items) -> None:
    data = load(folder / "train", image_size=16)
    assert (data.test, data.reference, data.class_names) == (None, None, ("ant", "bee", "cat"))
    assert data.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert data.ids is not None
    assert data.ids[7] == "bee/1.png"
    assert torch.equal(items(data.train_eval)[0], items(load(folder, image_size=16).train_eval)[0])


def test_no_test_split_is_demanded(folder: Path) -> None:
    shutil.rmtree(folder / "test")
    assert load(folder, image_size=16).test is None


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_split_stands_in_for_a_test_split_without_labels(folder: Path, name: str) -> None:
    (folder / "test").rename(folder / name)
    (folder / "test").mkdir()
    copy_image(folder / "train/ant/0.png", folder / "test/0.png")
    with pytest.warns(UserWarning, match=r"holds entries outside the splits and classes \(test/\), which"):
        data = load(folder, image_size=16)
    assert data.test is not None
    assert len(data.test) == 6  # type: ignore[arg-type]


def test_a_class_may_be_called_train(folder: Path) -> None:
    (folder / "train" / "bee").rename(folder / "train" / "train")
    assert load(folder / "train", image_size=16).class_names == ("ant", "cat", "train")


@pytest.mark.parametrize("name", ["Train", "training", "TEST", "val", "reference"])
def test_a_split_is_not_taken_for_a_class(folder: Path, name: str) -> None:
    (folder / "train" / "bee").rename(folder / "train" / name)
    with pytest.raises(ValueError, match=rf"holds {name}/ and no train/ with folders of classes, .*move the folders"):
        load(folder / "train")


def test_images_beside_each_other_in_splits_are_no_classes(folder: Path) -> None:
    for split in ("train", "test"):
        for file in sorted((folder / split / "ant").iterdir()):
            file.rename(folder / split / file.name)
        for name in ("ant", "bee", "cat"):
            shutil.rmtree(folder / split / name)
    with pytest.raises(FileNotFoundError, match=r"train' holds no folder of a class"):
        load(folder)


def test_a_folder_around_the_data_set_names_the_one_to_give(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    for split in ("train", "test"):
        (folder / split).rename(tmp_path / "outer" / split)
    with pytest.raises(ValueError, match=r"holds outer/train/, .*: give the folder '.*outer'"):
        load(tmp_path)


# -- what is no image and no class -------------------------------------------------------------------------


def test_what_is_hidden_is_neither_class_nor_image(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    for split in ("train", "test"):
        for name in (".ipynb_checkpoints", "__MACOSX", "ant/.ipynb_checkpoints"):
            (folder / split / name).mkdir()
            copy_image(folder / "train/ant/0.png", folder / split / name / "0.png")
        copy_image(folder / "train/ant/0.png", folder / split / "bee/._0.png")
        for name in (".DS_Store", "bee/.DS_Store", "bee/Thumbs.db"):
            (folder / split / name).write_text("left behind")
    data = load(folder, image_size=16)
    assert (len(data.labels), data.class_names) == (18, ("ant", "bee", "cat"))
    assert len(data.test) == 6  # type: ignore[arg-type]
    assert not recwarn.list


def test_what_is_not_read_is_counted_in_one_warning(folder: Path) -> None:
    for name in ("train/ant/a.txt", "train/bee/b.TXT", "test/cat/deep/c.heic", "train/bee/noending", "train/loose.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("?")
    (folder / "extra").mkdir()
    with pytest.warns(UserWarning, match="which nothing reads") as said:
        data = load(folder, image_size=16)
    assert len(data.labels) == 18
    (warning,) = said
    text = str(warning.message)
    assert "files whose names do not end as an image's (2 .txt, 1 without, 1 .heic)" in text
    assert "entries outside the splits and classes (extra/, train/loose.png)" in text


def test_images_are_found_at_any_depth_and_by_any_ending(folder: Path) -> None:
    (folder / "train/ant/deep/er").mkdir(parents=True)
    copy_image(folder / "train/ant/0.png", folder / "train/ant/deep/er/X.PNG")
    data = load(folder, image_size=16)
    assert data.ids is not None
    assert data.ids[6] == "train/ant/deep/er/X.PNG"
    assert data.labels.tolist() == [0] * 7 + [1] * 6 + [2] * 6


def test_two_forms_of_one_name_are_one_class_in_every_split(folder: Path, items: Items) -> None:
    composed, decomposed = "café", "cafe\u0301"
    (folder / "train/ant").rename(folder / "train" / composed)
    (folder / "train/bee").rename(folder / "train" / decomposed)
    shutil.rmtree(folder / "test/bee")
    (folder / "test/ant").rename(folder / "test" / decomposed)
    data = load(folder, image_size=16)
    assert data.class_names == ("café", "cat")
    assert data.labels.tolist() == [0] * 12 + [1] * 6
    assert data.test is not None
    assert items(data.test)[1] == [0, 0, 1, 1]


def test_a_class_without_an_image_is_named(folder: Path) -> None:
    for file in (folder / "train/bee").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match="holds no image of bee, expected .* remove what is no class, or list"):
        load(folder)


def test_a_pointer_in_the_place_of_an_image_is_told(folder: Path) -> None:
    (folder / "train/bee/3.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"bee.3\.png' is a pointer of Git LFS"):
        load(folder, image_size=16).train[9]
