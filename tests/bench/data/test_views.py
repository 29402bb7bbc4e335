"""The views of a data set: in workers, pickled, by batch, strongly augmented, relabelled, and cut down to a part."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from alignprune.bench.data import ClassificationData, arrays, limit, load, long_tail, relabel, subset
from alignprune.bench.data.transforms import Cutout
from alignprune.bench.data.views import FileNames

Items = Callable[[Dataset], tuple[torch.Tensor, list[int]]]
Check = Callable[[ClassificationData], None]


def images(tmp_path: Path) -> ClassificationData:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (52, 16, 12, 3), dtype=np.uint8)
    y = np.arange(52) % 4
    np.savez(tmp_path / "own.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    return arrays(tmp_path / "own.npz")


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_same_samples(tmp_path: Path, context: str, items: Items) -> None:
    data = images(tmp_path)
    loader = DataLoader(data.train_eval, batch_size=16, num_workers=1, multiprocessing_context=context)
    batches = list(loader)
    x, y = items(data.train_eval)
    assert torch.equal(torch.cat([batch[0] for batch in batches]), x)
    assert torch.cat([batch[1] for batch in batches]).tolist() == y


def test_every_view_can_be_pickled(folder: Path) -> None:
    data = load(folder, noise="symmetric", noise_rate=0.5, image_size=16)
    for view in (data.train, data.train_eval, data.clean_eval, data.test):
        copy = pickle.loads(pickle.dumps(view))
        assert copy[1][1] == view[1][1]  # type: ignore[index]


def test_a_batch_at_once_is_the_same_as_single_samples(tmp_path: Path) -> None:
    data = images(tmp_path)
    chosen = [7, 0, 39, 7]
    for view in (data.train_eval, data.train):
        torch.manual_seed(0)
        batch = view.__getitems__(chosen)  # type: ignore[attr-defined]
        torch.manual_seed(0)
        for (x, y), i in zip(batch, chosen, strict=True):
            single = view[i]
            torch.testing.assert_close(x, single[0])
            assert y == single[1]
    with pytest.raises(IndexError):
        data.train[40]


def unbalanced(tmp_path: Path, noise: str = "none", rate: float | None = None) -> ClassificationData:
    labels = np.repeat([0, 1, 2], [4, 30, 46])
    content = {
        "x_train": np.arange(80.0)[:, None],
        "y_train": np.random.default_rng(0).permutation(labels),
        "x_test": np.zeros((3, 1)),
        "y_test": np.arange(3),
    }
    np.savez(tmp_path / "own.npz", **content)
    return arrays(tmp_path / "own.npz", noise, rate)


@pytest.mark.parametrize(
    "size, counts",
    [(3, [1, 1, 1]), (12, [4, 4, 4]), (20, [4, 8, 8]), (70, [4, 30, 36]), (80, [4, 30, 46])],
)
def test_classes_are_balanced_as_far_as_they_go(
    tmp_path: Path, size: int, counts: list[int], check_consistent: Check
) -> None:
    data = limit(unbalanced(tmp_path), size, 0)
    check_consistent(data)
    assert [data.labels.tolist().count(c) for c in range(3)] == counts


def test_what_does_not_divide_goes_to_some_class(tmp_path: Path) -> None:
    data = unbalanced(tmp_path)
    counts = [torch.bincount(limit(data, 10, seed).labels).tolist() for seed in range(20)]
    assert all(sorted(count) == [3, 3, 4] for count in counts)
    assert len({tuple(count) for count in counts}) == 3


def test_a_limited_set_keeps_samples_truth_and_noise_together(
    tmp_path: Path, items: Items, check_consistent: Check
) -> None:
    full = unbalanced(tmp_path, "pairflip", 0.5)
    state = torch.get_rng_state()
    data = limit(full, 20, 3)
    assert torch.equal(torch.get_rng_state(), state)
    check_consistent(data)
    x, y = items(full.train_eval)
    where = [x.flatten().tolist().index(value) for value in items(data.train_eval)[0].flatten().tolist()]
    assert where == sorted(set(where))
    assert items(data.train_eval)[1] == [y[i] for i in where]
    assert full.clean_labels is not None
    assert data.clean_labels is not None
    assert data.clean_labels.tolist() == full.clean_labels[where].tolist()
    assert data.noise is not None
    assert (data.noise.kind, data.noise.rate, data.noise.seed) == ("pairflip", 0.5, 0)
    assert data.test is full.test


def test_the_same_seed_limits_to_the_same_samples(tmp_path: Path, items: Items) -> None:
    full = unbalanced(tmp_path)
    first, again, other = (items(limit(full, 20, seed).train_eval)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("size", [0, 2, 81])
def test_a_limit_out_of_range_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match=rf"size={size} is out of range, expected an integer from 3 to 80"):
        limit(unbalanced(tmp_path), size, 0)


def test_a_subset_keeps_its_order_in_every_view(tmp_path: Path, items: Items, check_consistent: Check) -> None:
    full = images(tmp_path)
    data = subset(full, torch.tensor([5, 3, 20]))
    check_consistent(data)
    assert torch.equal(items(data.train_eval)[0], items(full.train_eval)[0][[5, 3, 20]])
    assert data.labels.tolist() == [1, 3, 0]


def test_the_samples_of_a_subset_keep_their_places_in_the_data(tmp_path: Path) -> None:
    data = subset(subset(texts(tmp_path), torch.tensor([2, 3, 7, 11])), torch.tensor([1, 3]))
    assert data.places is not None
    assert data.places.tolist() == [3, 11]
    assert [data.train_eval[i][0] for i in range(2)] == ["text 3", "text 11"]


# -- other labels ------------------------------------------------------------------------------------------


def texts(tmp_path: Path) -> ClassificationData:
    rows = "".join(f"text {i},{'abc'[i % 3]}\n" for i in range(12))
    (tmp_path / "own.csv").write_text(f"text,label\n{rows}")
    return load(tmp_path / "own.csv", noise="symmetric", noise_rate=0.5, seed=1)


def photos(tmp_path: Path) -> ClassificationData:
    for i in range(12):
        (tmp_path / "own" / "abc"[i % 3]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (20 * i, 0, 0)).save(tmp_path / "own" / "abc"[i % 3] / f"{i}.png")
    return load(tmp_path / "own", noise="symmetric", noise_rate=0.5, seed=1, image_size=16)


def table(tmp_path: Path) -> ClassificationData:
    import datasets

    column = [Image.new("RGB", (20, 20), (20 * i, 0, 0)) for i in range(12)]
    kinds = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b", "c"]))
    labels = [i % 3 for i in range(12)]
    datasets.Dataset.from_dict({"image": column, "label": labels}, kinds).save_to_disk(str(tmp_path / "own"))
    return load(f"hf:{tmp_path / 'own'}", noise="symmetric", noise_rate=0.5, seed=1, image_size=16)


def labels_in(view: Dataset | None) -> list[int]:
    assert view is not None
    return [view[i][1] for i in range(len(view))]  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [images, texts, photos, table])
@pytest.mark.parametrize("part", [False, True])
def test_every_view_of_given_labels_gets_the_others_and_the_truth_stays(
    make: Callable[[Path], ClassificationData], part: bool, tmp_path: Path
) -> None:
    data = make(tmp_path)
    if part:
        data = subset(subset(data, torch.tensor([9, 1, 5, 3, 8, 2])), torch.tensor([4, 2, 0, 1]))
    before = [labels_in(view) for view in (data.train, data.train_eval)]
    given = (data.labels + 1) % 3
    made = relabel(data, given)
    assert made.labels.tolist() == given.tolist()
    for name in ("train", "train_eval", "strong", "contrastive"):
        assert (getattr(made, name) is None) == (getattr(data, name) is None)
        if getattr(made, name) is not None:
            assert labels_in(getattr(made, name)) == given.tolist()
    for one, other in ((made.clean_eval, data.clean_eval), (made.test, data.test)):
        assert one is other
    if data.noise is not None:
        assert made.noise is not None
        assert made.noise.labels.tolist() == given.tolist()
        assert torch.equal(made.noise.clean, data.noise.clean)
    for i in range(len(given)):
        sample, same = made.train_eval[i][0], data.train_eval[i][0]
        assert torch.equal(sample, same) if isinstance(sample, torch.Tensor) else sample == same
    assert [labels_in(view) for view in (data.train, data.train_eval)] == before
    given[0] = (given[0] + 1) % 3
    assert labels_in(made.train) == made.labels.tolist() != given.tolist()


def test_labels_that_do_not_fit_the_samples_are_refused(tmp_path: Path) -> None:
    data = images(tmp_path)
    for labels, said in (
        (data.labels[:-1], r"labels is torch.int64 of shape \(39,\), expected int64 of shape \(40,\)"),
        (data.labels.int(), "labels is torch.int32 of shape"),
        (data.labels + 1, r"labels\[3\]=4 is no class, expected 0 to 3"),
        (data.labels - 1, r"labels\[0\]=-1 is no class"),
    ):
        with pytest.raises(ValueError, match=said):
            relabel(data, labels)
    twice = subset(data, torch.tensor([7, 3, 7]))
    assert relabel(twice, torch.tensor([2, 1, 2])).labels.tolist() == [2, 1, 2]
    with pytest.raises(ValueError, match=r"labels\[0\]=2 is given to a sample that the data hold twice"):
        relabel(twice, torch.tensor([2, 1, 0]))
    own = replace(data, train=torch.utils.data.TensorDataset(torch.zeros(40), data.labels))
    with pytest.raises(TypeError, match="data holds samples of the kind TensorDataset"):
        relabel(own, data.labels)


# -- strong views ------------------------------------------------------------------------------------------


def black_and_white(tmp_path: Path, channels: int) -> ClassificationData:
    """Images of one colour: 32 x 32 pixels, black or white, so that the mean is gray."""
    x = np.zeros((8, 32, 32, channels), dtype=np.uint8)
    x[4:] = 255
    y = np.arange(8) // 4
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return arrays(tmp_path / "own.npz")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_strong_view_has_a_square_of_the_mean_colour_and_other_changes(tmp_path: Path, channels: int) -> None:
    data = black_and_white(tmp_path, channels)
    assert data.strong is not None
    torch.manual_seed(0)
    changed = 0
    for _ in range(40):
        for i in range(8):
            strong = data.strong[i][0]
            mean = (strong.abs() < 0.01).all(0)
            assert mean.sum() >= 8 * 8  # at least a quarter of the square of 16 lies inside the image
            changed += bool((strong[:, ~mean] != data.train[i][0][0, 0, 0]).any())
    assert 40 < changed < 300  # AutoAugment repaints some images of one colour, and leaves others alone


@pytest.mark.parametrize("channels", [2, 4])
def test_images_without_colour_have_no_strong_view(tmp_path: Path, channels: int, check_consistent: Check) -> None:
    data = black_and_white(tmp_path, channels)
    check_consistent(data)
    assert (data.strong, data.contrastive) == (None, None)


def test_features_have_no_strong_view(tmp_path: Path) -> None:
    data = unbalanced(tmp_path)
    assert (data.strong, data.contrastive) == (None, None)


def test_cutout_paints_a_square_around_each_pixel_and_cuts_off_what_is_outside() -> None:
    cutout = Cutout(4, [7.4, 250.0])
    image = torch.full((2, 6, 9), 100, dtype=torch.uint8)
    torch.manual_seed(0)
    seen = set()
    for _ in range(500):
        painted = cutout(image)
        rows, columns = (torch.nonzero((painted[0] != 100).any(axis)).flatten().tolist() for axis in (1, 0))
        seen.add((rows[0], rows[-1], columns[0], columns[-1]))
        expected = image.clone()
        expected[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 7
        expected[1, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 250
        assert torch.equal(painted, expected)
    assert bool((image == 100).all())
    centred = {(max(y - 2, 0), min(y + 1, 5), max(x - 2, 0), min(x + 1, 8)) for y in range(6) for x in range(9)}
    assert seen == centred


def test_the_contrastive_view_changes_its_colour_and_loses_it_at_times(tmp_path: Path) -> None:
    x = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    x[:2, ..., 0] = 200
    y = np.array([0, 0, 1, 1])
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = arrays(tmp_path / "own.npz")
    assert data.contrastive is not None
    torch.manual_seed(0)
    seen = torch.stack([data.contrastive[0][0] for _ in range(200)])
    seen[:, 0] = (seen[:, 0] + 1) * 100 / 255  # undo the normalisation; the other channels were constant
    colours = seen.mean((2, 3))
    assert 20 < int((colours.amax(1) - colours.amin(1) < 1e-3).sum()) < 65  # one in five
    assert len({tuple(colour) for colour in colours.tolist()}) > 50


# -- file names --------------------------------------------------------------------------------------------


def test_file_names_are_a_sequence_of_paths(tmp_path: Path) -> None:
    names = ["a.png", "ü/b c.png", "\udcff.png", "d" * 200]
    files = FileNames(tmp_path, names)
    assert [files[i] for i in range(len(files))] == [str(tmp_path / name) for name in names]
    assert files[-1] == str(tmp_path / names[-1])
    with pytest.raises(IndexError):
        files[4]


def test_file_names_take_little_more_than_their_characters(tmp_path: Path) -> None:
    names = [f"n{i:08d}/{i:08d}.jpg" for i in range(10_000)]
    assert len(pickle.dumps(FileNames(tmp_path, names))) < sum(map(len, names)) + 8 * len(names) + 1000


@pytest.mark.parametrize("imbalance", [1.0, 0.1])
def test_a_long_tail_thins_out_the_classes_exponentially_by_their_true_labels(imbalance: float) -> None:
    data = load("digits", noise="symmetric", noise_rate=0.3, seed=5)
    thinned = long_tail(data, imbalance, seed=5)
    assert data.clean_labels is not None
    assert thinned.clean_labels is not None
    before, after = (torch.bincount(labels, minlength=10) for labels in (data.clean_labels, thinned.clean_labels))
    for c in range(10):
        assert after[c] == round(int(before[c]) * imbalance ** (c / 9))
    assert thinned.noise is not None
    assert torch.equal(thinned.noise.labels, thinned.labels)
    assert torch.equal(thinned.noise.clean, thinned.clean_labels)
    assert thinned.noise.noise_rate == pytest.approx(0.3, abs=0.06)  # drawn apart from the noise
    assert torch.equal(torch.tensor([y for _, y in thinned.train]), thinned.labels)  # type: ignore[attr-defined]
    assert torch.equal(long_tail(data, imbalance, seed=5).labels, thinned.labels)
