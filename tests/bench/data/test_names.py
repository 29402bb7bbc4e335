"""What the named data sets call their classes and samples."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from torchvision.models import ResNet50_Weights

from alignprune.bench.data import ClassificationData, cifar10n, cifar100n, clothing1m, load
from alignprune.bench.data.news import GROUPS, HIERARCHIES

needs_cifar = pytest.mark.skipif(
    not (Path(os.environ.get("ALIGNPRUNE_DATA", "nowhere")) / "cifar-100-python").is_dir(),
    reason="ALIGNPRUNE_DATA does not point to a data root with CIFAR-100",
)
needs_news = pytest.mark.skipif(
    not (Path(os.environ.get("ALIGNPRUNE_DATA", "nowhere")) / "20news-bydate_py3.pkz").exists(),
    reason="ALIGNPRUNE_DATA does not point to a data root with 20 Newsgroups",
)


def test_classes_of_cifar_are_named_by_its_meta_file(cifar100_root: Path) -> None:
    data = cifar100n(cifar100_root, "clean")
    assert (data.class_names[7], len(data.class_names), data.ids) == ("class 7", 100, None)


def test_classes_of_cifar10_are_named_by_its_meta_file(cifar10_root: Path) -> None:
    assert cifar10n(cifar10_root, "clean").class_names == tuple(f"class {i}" for i in range(10))


def test_digits_are_their_own_names() -> None:
    assert load("digits").class_names == tuple("0123456789")


def test_hierarchies_are_the_first_parts_of_the_newsgroups() -> None:
    assert list(GROUPS) == sorted(GROUPS)
    assert HIERARCHIES == ("alt", "comp", "misc", "rec", "sci", "soc", "talk")
    assert len(GROUPS) == 20


@needs_cifar
def test_the_official_names_of_cifar100_are_read() -> None:
    names = load("cifar100n", noise="clean").class_names
    assert (names[0], names[-1], len(set(names))) == ("apple", "worm", 100)


@needs_news
def test_the_newsgroups_are_those_of_the_file() -> None:
    from sklearn.datasets import fetch_20newsgroups

    found = fetch_20newsgroups(data_home=os.environ["ALIGNPRUNE_DATA"], subset="test", download_if_missing=False)
    assert tuple(found.target_names) == GROUPS


def write_list(file: Path, lines: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def listed_tree(root: Path, name: str, images: list[str], **lists: list[str]) -> ClassificationData:
    """A data set of lists, whose images are empty files: names need no pixels."""
    for image in images:
        (root / name / image).parent.mkdir(parents=True, exist_ok=True)
        (root / name / image).write_bytes(b"")
    for file, lines in lists.items():
        write_list(root / name / file.replace("__", "/"), lines)
    return load(name, root=root, image_size=8)


def test_classes_of_webvision_are_those_of_imagenet(tmp_path: Path) -> None:
    images = [f"google/q/{i}.jpg" for i in (0, 49)] + [f"val_images_256/{i}.jpg" for i in range(4)]
    data = listed_tree(
        tmp_path,
        "webvision",
        images,
        **{
            "info__train_filelist_google.txt": ["google/q/0.jpg 0", "google/q/49.jpg 49"],
            "info__val_filelist.txt": ["0.jpg 0", "1.jpg 0", "2.jpg 49", "3.jpg 49"],
        },
    )
    assert data.class_names == tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"][:50])
    assert data.class_names[0] == "tench"
    assert list(data.ids or ()) == ["google/q/0.jpg", "google/q/49.jpg"]


def test_classes_of_clothing_have_their_names(tmp_path: Path) -> None:
    images = [f"images/{i}.jpg" for i in range(3)]
    keys = {
        f"annotations__{name}_key_list.txt": [image]
        for name, image in zip(("noisy_train", "clean_val", "clean_test"), images, strict=True)
    }
    labels = [f"{image} 13" for image in images]
    lists = keys | {f"annotations__{name}_label_kv.txt": labels for name in ("noisy", "clean")}
    data = listed_tree(tmp_path, "clothing1m", images, **lists)
    assert (data.class_names[0], data.class_names[13], len(set(data.class_names))) == ("T-shirt", "underwear", 14)
    assert list(data.ids or ()) == ["images/0.jpg"]


@pytest.mark.parametrize(
    "text, match", [("version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"), ("<html>", "web page")]
)
def test_what_stands_in_the_place_of_a_file_is_told(tmp_path: Path, cifar100_root: Path, text: str, match: str) -> None:
    (cifar100_root / "CIFAR-100_human.pt").write_text(text)
    with pytest.raises(ValueError, match=rf"CIFAR-100_human\.pt' is a {match}"):
        cifar100n(cifar100_root)
    (cifar100_root / "cifar-100-python" / "train").write_text(text)
    with pytest.raises(ValueError, match=rf"holds train \(is a {match}.*with other MD5 sums"):
        cifar100n(cifar100_root)
    write_list(tmp_path / "clothing1m/annotations/noisy_label_kv.txt", [text])
    with pytest.raises(ValueError, match=rf"noisy_label_kv\.txt' is a {match}"):
        clothing1m(tmp_path)
