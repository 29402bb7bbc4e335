"""Named data sets as vectors of pretrained networks: CIFAR-100 as image features, 20 Newsgroups as sentence vectors."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from alignprune.bench.data.cifar import CIFAR100N, cifar100n
from alignprune.bench.data.embedding.contract import Progress
from alignprune.bench.data.embedding.data import embedded
from alignprune.bench.data.embedding.images import TimmEmbedder
from alignprune.bench.data.embedding.texts import SentenceEmbedder
from alignprune.bench.data.news import FILE, GROUPS, NEWS20, read_documents, training_size
from alignprune.bench.data.records import ANY_CLASSES, as_labels, check_exists, check_noise, data_root, draw
from alignprune.bench.data.views import ClassificationData, PathLike, Texts, Transforms, assemble

CIFAR100N_PRETRAINED = replace(
    CIFAR100N,
    name="cifar100n-pretrained",
    image_size=None,
    description="cifar100n as 1,280 features of EfficientNet-Lite0, pretrained on ImageNet, at 96 pixels; they are "
    "computed once, in some minutes, and cached; needs the extra pretrained",
    note="needs the extra pretrained; CIFAR-100_human.pt is needed for the noise real only",
    embedder=TimmEmbedder,
)

NEWS20_SENTENCES = replace(
    NEWS20,
    name="news20-sentences",
    description="20 Newsgroups (18,846 documents, the first 70 % for training, 20 classes) as 384 values of "
    "all-MiniLM-L6-v2 on their first 128 word pieces, with clean labels or synthetic noise; they are computed once, in "
    "a quarter of an hour, and cached; needs the extra sentences",
    note=f"needs the extra sentences; {NEWS20.note}",
    noises=("clean", *ANY_CLASSES),
    embedder=SentenceEmbedder,
    word_vectors=False,
)


def cifar100n_pretrained(
    root: PathLike | None = None,
    noise: str = "real",
    noise_rate: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ClassificationData:
    """CIFAR-100 with the labels of CIFAR-100N, clean labels or synthetic noise, as features, float32 [1280].

    Args, Raises: as for `cifar100n`; `progress` is called with the images done and all while they are embedded;
        ImportError if the weights are not installed.

    Returns:
        the data. The order of the samples, their labels and their noise are those of `cifar100n`.

    Source: Tan and Le (ICML 2019), EfficientNet; its Lite variant drops squeeze-and-excitation and takes ReLU6.
    """
    embedder = TimmEmbedder()
    images = cifar100n(root, noise, noise_rate, seed)
    return replace(embedded(images, embedder, progress), name=CIFAR100N_PRETRAINED.name)


def news20_sentences(
    root: PathLike | None = None,
    noise: str = "clean",
    noise_rate: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ClassificationData:
    """20 Newsgroups as sentence vectors, float32 [384]; headers, footers and quotes are part of the documents.

    Args:
        root: data root with 20news-bydate_py3.pkz; None for ALIGNPRUNE_DATA.
        noise: "clean", or a kind of `alignprune.noise` that needs labels alone.
        noise_rate: nominal rate of synthetic noise in [0, 1]; None for "clean".
        seed: seed of synthetic noise.
        progress: called with the documents done and all while they are embedded.

    Returns:
        the data. The order of the samples, their labels and their noise are those of `news` with 20 groups.

    Raises:
        FileNotFoundError: if the file is missing.
        ImportError: if the sentence model is not installed.
        ValueError: if the file is damaged or an argument does not fit.

    Source: Wang et al. (2020), MiniLM; Reimers and Gurevych (EMNLP 2019), Sentence-BERT.
    """
    check_noise(NEWS20_SENTENCES, noise, noise_rate)
    folder = data_root(root)
    check_exists(folder, folder / FILE, NEWS20.source)
    embedder = SentenceEmbedder()
    texts, groups = read_documents(folder)
    split, labels = training_size(len(texts)), as_labels(groups)
    clean = labels[:split]

    def view(labels: Tensor, transform: nn.Module | None) -> Texts:
        return Texts(texts[:split], labels)

    documents = assemble(
        name=NEWS20_SENTENCES.name,
        view=view,
        transforms=Transforms(None, None, None),
        given=clean,
        noise=draw(NEWS20_SENTENCES, clean, noise, noise_rate, 20, seed),
        truth=clean,
        test=Texts(texts[split:], labels[split:]),
        reference=None,
        num_classes=20,
        input_shape=(),
        class_names=GROUPS,
    )
    return embedded(documents, embedder, progress)
