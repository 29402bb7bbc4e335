"""The views of one data set: the same samples in the same order, under each kind of label and transform.

The training samples come with noisy labels (augmented, strongly augmented and plain) and with clean labels
where these are known; `assemble` makes all of these from one function of (labels, transform).
"""

from __future__ import annotations

import copy
import filecmp
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from alignprune._ranks import keyed_generator
from alignprune.bench.data.images import read_image
from alignprune.bench.data.preparation import Preparation
from alignprune.errors import TypeMistake, ValueMistake
from alignprune.noise import NoisyLabels

Samples = Dataset[tuple[Tensor, int]]
View = Callable[[Tensor, nn.Module | None], Samples]
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Transforms:
    """What is done to a sample in each view.

    Attributes:
        train: of the training samples, None for nothing.
        strong: of the strongly augmented training samples; None where there is no such view.
        contrastive: of the training samples in learning without labels; None where there is no such view.
        plain: of every sample that is not augmented, None for nothing.
        preparation: the record that the deterministic part is built from; None for features that come ready.
    """

    train: nn.Module | None
    strong: nn.Module | None
    contrastive: nn.Module | None
    plain: nn.Module | None = None
    preparation: Preparation | None = None


class TensorData(Dataset[tuple[Tensor, int]]):
    """Samples held in one tensor; a batch is transformed at once where that gives the same.

    Args:
        inputs: images, uint8 [N, C, H, W], or features, float32 [N, D].
        labels: class ids, int64 [N].
        augment: random transform of one sample, None for none.
        finish: deterministic transform of a sample or of a batch of them, None for none.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        augment: nn.Module | None = None,
        finish: nn.Module | None = None,
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.augment = augment
        self.finish = finish

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """The samples at these indices; DataLoader asks for a whole batch by this method."""
        where = torch.as_tensor(indices, dtype=torch.int64)
        batch = self.inputs[where]
        if self.augment is not None:
            batch = torch.stack([self.augment(sample) for sample in batch])
        if self.finish is not None:
            batch = self.finish(batch)
        return list(zip(batch.unbind(), self.labels[where].tolist(), strict=True))


def channels_first(images: np.ndarray) -> Tensor:
    """Images, uint8 [N, H, W, C] or [N, H, W], as a tensor [N, C, H, W]."""
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if tensor.ndim == 3:
        return tensor.unsqueeze(1)
    return tensor.permute(0, 3, 1, 2).contiguous()


class Strings(Sequence[str]):
    """Many strings in one buffer, which worker processes share.

    A list of a million strings would be copied into each of them, page by page, by the reference counts that
    reading changes.

    Args:
        strings: the N strings.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        # Names of files that are no text come as lone surrogates, which pass through.
        encoded = [string.encode("utf-8", "surrogatepass") for string in strings]
        self._joined = b"".join(encoded)
        self._bounds = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        position = range(len(self))[index]  # counts from the end below 0, and raises IndexError as a list does
        start, end = self._bounds[position : position + 2]
        return self._joined[start:end].decode("utf-8", "surrogatepass")


class FileNames(Sequence[str]):
    """Paths of many files.

    Args:
        folder: folder that the names start from.
        names: relative paths of the N files.

    Attributes:
        names: the relative paths.
    """

    def __init__(self, folder: PathLike, names: Iterable[str]) -> None:
        self.folder = os.fspath(folder)
        self.names = Strings(names)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [os.path.join(self.folder, name) for name in self.names[index]]
        return os.path.join(self.folder, self.names[index])


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Samples read from image files.

    Args:
        files: paths of the N images.
        labels: class ids, int64 [N].
        transform: RGB image to tensor, None for the image itself.
    """

    def __init__(self, files: FileNames, labels: Tensor, transform: nn.Module | None) -> None:
        self.files = files
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self.files[index]
        image: Any = read_image(f"file={file!r}", file)
        return image if self.transform is None else self.transform(image), int(self.labels[index])


class Texts(Dataset[tuple[Any, int]]):
    """Samples that are texts, as they are: something else has to turn them into features before they are trained on.

    Args:
        texts: the N texts.
        labels: class ids, int64 [N].
    """

    def __init__(self, texts: Sequence[str], labels: Tensor) -> None:
        self.texts = texts
        self.labels = labels

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.texts[index], int(self.labels[index])


@dataclass(frozen=True, eq=False)
class ClassificationData:
    """One set of training samples in all its views, and the test samples.

    Attributes:
        name: name of the data set.
        train: training samples with the (noisy) labels and the training transform.
        train_eval: the same samples and labels, evaluation transform.
        strong: the same samples and labels under the strong augmentation (AutoAugment and Cutout); None for
            samples that have none, such as features.
        contrastive: the same samples and labels under the augmentation of SimCLR, for learning without labels;
            None for samples that have none.
        clean_eval: the same samples with clean labels, evaluation transform; None where the truth is unknown
            or is given for diagnosis only.
        test: test samples, evaluation transform; None without, and then a part of `train` has to be held out.
        reference: clean reference samples apart from the training samples, evaluation transform; None without.
        labels: labels of `train`, int64 [N].
        clean_labels: clean labels of the same samples, int64 [N]; None where unknown.
        num_classes: number of classes C.
        input_shape: shape of one sample after the transform, (channels, height, width) or (features,); () for
            `Texts`, whose samples are strings.
        noise: noisy and clean labels with the kind of noise; None where no noise is known.
        class_names: C names, in the order of the class ids.
        preparation: from a raw input to the tensor that a sample is without augmentation.
        ids: what the user calls the training samples, N file names or keys; None = their places.
        places: where the training samples stand in the data as the user has them, int64 [N]; None = 0 to N - 1.
        picture: height and width of the grey image whose pixels, in [0, 1], the features are; None where they are none.
        stopping: samples with their given labels that are held out of `train` to choose the epoch by, evaluation
            transform; None without.
    """

    name: str
    train: Samples
    train_eval: Samples
    strong: Samples | None
    contrastive: Samples | None
    clean_eval: Samples | None
    test: Samples | None
    reference: Samples | None
    labels: Tensor
    clean_labels: Tensor | None
    num_classes: int
    input_shape: tuple[int, ...]
    noise: NoisyLabels | None
    class_names: tuple[str, ...]
    preparation: Preparation
    ids: Sequence[str] | None = None
    places: Tensor | None = None
    picture: tuple[int, int] | None = None
    stopping: Samples | None = None


def refuse_overlap(reference: Samples | None, test: Samples | None) -> None:
    """Refuse a reference of the user's that shares samples with the test set: it would steer the training by test data.

    Args:
        reference: clean reference samples; None for none.
        test: test samples, of the same kind; None for none. Files are compared by content, those of equal size only;
            samples that are no tensors and no files are not compared.

    Raises:
        ValueError: if a sample is in both, with its place in the reference.
    """
    if isinstance(reference, TensorData) and isinstance(test, TensorData):
        tested = {_digest(row.tobytes()) for row in test.inputs.numpy()}
        shared = [str(i) for i, row in enumerate(reference.inputs.numpy()) if _digest(row.tobytes()) in tested]
    elif isinstance(reference, ImageFiles) and isinstance(test, ImageFiles):
        by_size: dict[int, list[str]] = {}
        for i in range(len(test)):
            by_size.setdefault(os.path.getsize(test.files[i]), []).append(test.files[i])
        names = [reference.files[i] for i in range(len(reference))]
        shared = [
            name
            for name in names
            if any(filecmp.cmp(name, other, shallow=False) for other in by_size.get(os.path.getsize(name), ()))
        ]
    else:
        return
    if shared:
        first = ", ".join(shared[:3])
        raise ValueMistake(
            f"reference has {len(shared)} of its {len(reference)} samples in the test set, too ({first}, ...), "
            "expected none, since the training would be steered by test data: take them out of one of the two"
        )


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def assemble(
    *,
    name: str,
    view: View,
    transforms: Transforms,
    given: Tensor,
    noise: NoisyLabels | None,
    truth: Tensor | None,
    test: Samples | None,
    reference: Samples | None,
    num_classes: int,
    input_shape: tuple[int, ...],
    class_names: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    places: Tensor | None = None,
    picture: tuple[int, int] | None = None,
) -> ClassificationData:
    """Make all views of the training samples.

    Args:
        name: as in `ClassificationData`.
        view: the training samples under (labels, transform).
        transforms: what to do to a sample in each view.
        given: the labels without drawn noise, int64 [N].
        noise: noisy labels to train on, None for the given ones.
        truth: clean labels that may also serve as reference, int64 [N]; None without.
        test: as in `ClassificationData`.
        reference: as in `ClassificationData`.
        num_classes: as in `ClassificationData`.
        input_shape: as in `ClassificationData`.
        class_names: as in `ClassificationData`; None names the classes by their ids.
        ids: as in `ClassificationData`.
        places: as in `ClassificationData`.
        picture: as in `ClassificationData`.

    Returns:
        the data.
    """
    labels = given if noise is None else noise.labels
    return ClassificationData(
        name=name,
        train=view(labels, transforms.train),
        train_eval=view(labels, transforms.plain),
        strong=None if transforms.strong is None else view(labels, transforms.strong),
        contrastive=None if transforms.contrastive is None else view(labels, transforms.contrastive),
        clean_eval=None if truth is None else view(truth, transforms.plain),
        test=test,
        reference=reference,
        labels=labels,
        clean_labels=truth if noise is None else noise.clean,
        num_classes=num_classes,
        input_shape=input_shape,
        noise=noise,
        class_names=tuple(map(str, range(num_classes) if class_names is None else class_names)),
        preparation=transforms.preparation
        or (Preparation("features", shape=input_shape) if input_shape else Preparation("text")),
        ids=ids,
        places=places,
        picture=picture,
    )


def limit(data: ClassificationData, size: int, seed: int) -> ClassificationData:
    """Keep a random, class-balanced subset of the training samples; test and reference stay as they are.

    Every class (by the labels of `train`, since the truth may be unknown) gives the same number of samples,
    plus or minus one; a class that has fewer gives all it has and the others make up for it.

    Args:
        data: the data.
        size: training samples to keep, between the number of classes and the number of samples.
        seed: seed of the draw; torch's global generator is not used.

    Returns:
        the same data with `size` training samples in their old order, consistent in labels, views and noise.

    Raises:
        ValueError: if size is out of its range.
    """
    total = len(data.labels)
    if not data.num_classes <= size <= total:
        raise ValueMistake(
            f"size={size} is out of range, expected an integer from {data.num_classes} to {total}: at least one sample "
            f"per class, at most all samples"
        )
    return subset(data, balanced(data.labels, data.num_classes, size, torch.Generator().manual_seed(seed)))


def long_tail(data: ClassificationData, imbalance: float, seed: int) -> ClassificationData:
    """Thin out the classes so that the last has a share of its samples left and the first all, exponentially between.

    Args:
        data: the data.
        imbalance: share of its samples that the last class keeps, in (0, 1]; class c of C keeps
            imbalance^(c / (C - 1)).
        seed: seed of the draw; torch's global generator is not used.

    Returns:
        the same data with fewer training samples, by their true class where it is known; each class keeps one at least.
    """
    labels = data.labels if data.clean_labels is None else data.clean_labels
    # An own stream: one that noise of the same seed is drawn from would keep the very samples that it flipped.
    generator = keyed_generator(seed, 0, "long tail")
    kept = []
    for c in range(data.num_classes):
        members = torch.nonzero(labels == c).flatten()
        count = max(1, round(len(members) * imbalance ** (c / max(1, data.num_classes - 1))))
        kept.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return subset(data, torch.cat(kept).sort().values)


def subset(data: ClassificationData, indices: Tensor) -> ClassificationData:
    """Keep some of the training samples; test and reference stay as they are.

    Args:
        data: the data.
        indices: training samples to keep, int64 [n].

    Returns:
        the same data with these training samples, in the order of the indices, consistent in labels, views and
        noise; they keep their ids and places.
    """
    indices = indices.cpu()
    where = indices.tolist()
    noise = data.noise
    return replace(
        data,
        train=Subset(data.train, where),
        train_eval=Subset(data.train_eval, where),
        strong=None if data.strong is None else Subset(data.strong, where),
        contrastive=None if data.contrastive is None else Subset(data.contrastive, where),
        clean_eval=None if data.clean_eval is None else Subset(data.clean_eval, where),
        labels=data.labels[indices],
        clean_labels=None if data.clean_labels is None else data.clean_labels[indices],
        noise=None if noise is None else replace(noise, labels=noise.labels[indices], clean=noise.clean[indices]),
        ids=None if data.ids is None else [data.ids[i] for i in where],
        places=indices if data.places is None else data.places[indices],
    )


def labels_of(samples: Samples) -> Tensor:
    """The class ids of a view, int64 [N], without reading a sample."""
    if isinstance(samples, Subset):
        return labels_of(samples.dataset)[torch.as_tensor(samples.indices, dtype=torch.int64)]
    stored: Any = samples
    return torch.as_tensor(stored.labels, dtype=torch.int64)


def relabel(data: ClassificationData, labels: Tensor) -> ClassificationData:
    """Give the training samples other labels; test, reference and the clean labels stay as they are.

    Args:
        data: the data, which is not changed.
        labels: class ids of the training samples, int64 [N].

    Returns:
        the same data with these given labels, in every view that carries given labels and in the noise.

    Raises:
        TypeError: if a view is of a kind whose labels cannot be replaced.
        ValueError: if labels has another shape or type, or one of them is no class.
    """
    if labels.dtype != torch.int64 or labels.shape != data.labels.shape:
        raise ValueMistake(
            f"labels is {labels.dtype} of shape {tuple(labels.shape)}, expected int64 of shape "
            f"{tuple(data.labels.shape)}, a class id a training sample: pass all of them"
        )
    wrong = torch.nonzero((labels < 0) | (labels >= data.num_classes)).flatten()
    if len(wrong):
        raise ValueMistake(
            f"labels[{int(wrong[0])}]={int(labels[wrong[0]])} is no class, expected 0 to {data.num_classes - 1}: give "
            "every sample one"
        )
    given = labels.clone()
    return replace(
        data,
        train=_relabelled(data.train, given),
        train_eval=_relabelled(data.train_eval, given),
        strong=None if data.strong is None else _relabelled(data.strong, given),
        contrastive=None if data.contrastive is None else _relabelled(data.contrastive, given),
        labels=given,
        noise=None if data.noise is None else replace(data.noise, labels=given),
    )


def _relabelled(view: Samples, labels: Tensor) -> Samples:
    """A copy of a view with other labels, which shares the samples."""
    if isinstance(view, Subset):
        where = torch.as_tensor(view.indices, dtype=torch.int64)
        whole = labels_of(view.dataset).clone()
        whole[where] = labels
        twice = torch.nonzero(whole[where] != labels).flatten()
        if len(twice):
            raise ValueMistake(
                f"labels[{int(twice[0])}]={int(labels[twice[0]])} is given to a sample that the data hold twice, with "
                "another label the other time, expected the same: choose one of the two"
            )
        return Subset(_relabelled(view.dataset, whole), view.indices)
    if not hasattr(view, "labels"):
        raise TypeMistake(
            f"data holds samples of the kind {type(view).__name__}, expected a view that "
            "`alignprune.bench.data.load` gives: give the labels to your own data set"
        )
    made: Any = copy.copy(view)
    made.labels = labels
    return made


def balanced(labels: Tensor, num_classes: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw samples with class counts as equal as the classes allow.

    Args:
        labels: class ids, int64 [N].
        num_classes: number of classes.
        size: samples to draw, at most N.
        generator: randomness of the draw.

    Returns:
        indices of the drawn samples, int64 [size], ascending.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    quotas = torch.zeros_like(counts)
    while (missing := size - int(quotas.sum())) > 0:
        unfilled = torch.nonzero(quotas < counts).flatten()
        if missing < len(unfilled):
            # Fewer samples than classes are left to give: a draw decides which classes give one more.
            unfilled = unfilled[torch.randperm(len(unfilled), generator=generator)[:missing]]
        share = max(missing // len(unfilled), 1)
        quotas[unfilled] = torch.minimum(quotas[unfilled] + share, counts[unfilled])
    members = torch.argsort(labels, stable=True).split(counts.tolist())
    kept = [
        positions[torch.randperm(len(positions), generator=generator)[:quota]]
        for positions, quota in zip(members, quotas.tolist(), strict=True)
    ]
    return torch.cat(kept).sort().values
