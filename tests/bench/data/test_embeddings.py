"""Word vectors against a dense calculation written from the formula; the cache by what it computes again."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from alignprune.bench.data.embeddings import read_glove, train_embeddings


def corpus(documents: int = 30, length: int = 14, words: int = 12, seed: int = 0) -> np.ndarray:
    """Random documents of different lengths; neighbouring words are correlated."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 4, (documents, length)).cumsum(1) % words + 1
    steps[np.arange(length) >= rng.integers(2, length + 1, (documents, 1))] = 0
    return steps


def dense_ppmi(token_ids: np.ndarray, words: int, window: int) -> np.ndarray:
    """A slow loop over all pairs of positions."""
    counts = np.zeros((words, words))
    for document in token_ids.tolist():
        for i, left in enumerate(document):
            for j, right in enumerate(document):
                if left and right and 0 < abs(i - j) <= window:
                    counts[left - 1, right - 1] += 1 / abs(i - j)
    total = counts.sum()
    contexts = counts.sum(0) ** 0.75
    table = np.zeros_like(counts)
    for i in range(words):
        for j in range(words):
            if counts[i, j]:
                expected = counts[i].sum() / total * contexts[j] / contexts.sum()
                table[i, j] = max(0.0, math.log(counts[i, j] / total / expected))
    return table


# -- training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 3, 40])
@pytest.mark.parametrize("dimensions", [3, 12])
def test_vectors_factorise_the_mutual_information(window: int, dimensions: int) -> None:
    token_ids = corpus()
    vectors = train_embeddings(token_ids, 12, dimensions, window)
    assert vectors.shape == (13, dimensions)
    assert vectors.dtype == np.float32
    u, s, _ = np.linalg.svd(dense_ppmi(token_ids, 12, window))
    gram = (u[:, :dimensions] * s[:dimensions]) @ u[:, :dimensions].T  # of U sqrt(S): signs and order drop out
    np.testing.assert_allclose(vectors[1:] @ vectors[1:].T, gram, atol=1e-4)


def test_words_in_the_same_company_get_similar_vectors() -> None:
    # 1 and 2 stand between 3 and 4; 5 stands between 6 and 7.
    token_ids = np.array([[3, 1, 4], [3, 2, 4], [6, 5, 7]] * 4)
    vectors = train_embeddings(token_ids, 7, 4, window=1)
    unit = vectors[1:] / np.linalg.norm(vectors[1:], axis=1, keepdims=True)
    assert unit[0] @ unit[1] > 0.99
    assert abs(unit[0] @ unit[4]) < 0.01


def test_no_word_and_a_word_without_neighbours_have_the_vector_zero() -> None:
    vectors = train_embeddings(np.array([[1, 2, 0, 0], [3, 0, 0, 0]]), 3, 2, window=3)
    assert not vectors[0].any()
    np.testing.assert_allclose(vectors[3], 0, atol=1e-6)
    assert vectors[1].any()


def test_the_same_documents_give_the_same_vectors() -> None:
    token_ids = corpus()
    before = token_ids.copy()
    state = np.random.get_state()[1].copy()
    first, again = (train_embeddings(token_ids.astype(kind), 12, 5) for kind in (np.int64, np.int32))
    assert np.array_equal(first, again)
    assert np.array_equal(token_ids, before)
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize(
    "change, error, match",
    [
        ({"dimensions": 13}, ValueError, "dimensions=13 is out of range, expected at most the 12 words"),
        ({"dimensions": 0}, ValueError, "dimensions=0 is out of range"),
        ({"window": 0}, ValueError, "window=0 is out of range"),
        ({"window": 1.5}, TypeError, "window=1.5 is float"),
        ({"vocabulary_size": 11}, ValueError, r"token_ids reach from 0 to 12, expected 0 \(no word\) to 11"),
        ({"token_ids": np.array([[-1, 2]])}, ValueError, r"token_ids reach from -1 to 2"),
        ({"token_ids": np.array([1, 2])}, ValueError, r"token_ids is int64 of shape \(2,\)"),
        ({"token_ids": np.array([[1.0, 2.0]])}, ValueError, "token_ids is float64"),
        ({"token_ids": np.array([[1, 0], [2, 0]])}, ValueError, "no document with two words within the window"),
    ],
)
def test_documents_and_settings_that_do_not_fit_are_refused(
    change: dict[str, object], error: type[Exception], match: str
) -> None:
    arguments = {"token_ids": corpus(), "vocabulary_size": 12, "dimensions": 5, "window": 3, **change}
    with pytest.raises(error, match=match):
        train_embeddings(**arguments)  # type: ignore[arg-type]


# -- GloVe -------------------------------------------------------------------------------------------------


def glove(folder: Path, *lines: str) -> Path:
    path = folder / "vectors.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_words_get_their_rows_and_missing_words_zeros(tmp_path: Path) -> None:
    path = glove(tmp_path, "the 0.5 -1 2e-1", "ähnlich 4 5 6", "of 7 8 9", "unused 1 1 1")
    vectors = read_glove(path, ["of", "nowhere", "ähnlich", "the"])
    assert vectors.dtype == np.float32
    expected = [[0, 0, 0], [7, 8, 9], [0, 0, 0], [4, 5, 6], [0.5, -1, 0.2]]
    np.testing.assert_array_equal(vectors, np.array(expected, dtype=np.float32))


def test_a_word_with_a_blank_is_not_taken_for_its_first_part(tmp_path: Path) -> None:
    path = glove(tmp_path, "on 1 2 3", "at 4 5 6", "at name@domain.com 7 8 9")
    assert read_glove(path, ["at"])[1].tolist() == [4, 5, 6]


def test_a_damaged_line_of_a_wanted_word_is_named(tmp_path: Path) -> None:
    for damage, match in (
        ("at 4 5", r"vectors\.txt', line 2, has 2 values, expected 3 as in line 1"),
        ("at 4 five 6", r"line 2, is damaged \(.*five.*\), expected 3 numbers"),
        ("at 4 nan 6", "line 2, holds a value that is not finite"),
    ):
        path = glove(tmp_path, "on 1 2 3", damage)
        with pytest.raises(ValueError, match=match):
            read_glove(path, ["at"])
        assert read_glove(path, ["on"])[1].tolist() == [1, 2, 3]


def test_a_file_without_the_words_is_refused(tmp_path: Path) -> None:
    header = glove(tmp_path, "2 3", "on 1 2 3", "at 4 5 6")
    with pytest.raises(ValueError, match=r"none of the 2 words, expected GloVe's text format.* without a header"):
        read_glove(header, ["on", "at"])
    with pytest.raises(FileNotFoundError):
        read_glove(tmp_path / "nowhere.txt", ["on"])


def test_a_pointer_in_the_place_of_word_vectors_is_told(tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"glove\.txt' is a pointer of Git LFS"):
        read_glove(tmp_path / "glove.txt", ["version"])
