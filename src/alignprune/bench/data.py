"""Data sets for training: every view of one set of samples, with the same order and the same index.

A loader gives the training samples under noisy labels (augmented and plain), the same samples under clean
labels where these are known, and the test samples. `load` finds the loader from a name, an .npz file or a
folder.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from torchvision import datasets
from torchvision.datasets.folder import default_loader
from torchvision.datasets.utils import check_integrity
from torchvision.transforms import v2

from alignprune._checks import choice
from alignprune.noise import KINDS, NoisyLabels, corrupt

Samples = Dataset[tuple[Tensor, int]]
PathLike = str | os.PathLike[str]

DATA_ROOT = "ALIGNPRUNE_DATA"

# The constants of the scripts that the paper follows; they use them for CIFAR-10 and CIFAR-100 alike.
CIFAR_MEAN = (0.5074, 0.4867, 0.4411)
CIFAR_STD = (0.2011, 0.1987, 0.2025)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_TORONTO = "the CIFAR page of the University of Toronto"
_CIFAR_N = "repository UCSC-REAL/cifar-10-100n"


class TensorData(Dataset[tuple[Tensor, int]]):
    """Samples held in one tensor; a batch is transformed at once where that gives the same.

    Args:
        inputs: Images, uint8, shape [N, C, H, W], or features, float32, shape [N, D].
        labels: Class ids, int64, shape [N].
        augment: Random transform of one sample, None for none.
        finish: Deterministic transform of a sample or of a batch of them, None for none.
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


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Samples read from image files.

    Args:
        files: Paths of the N images.
        labels: Class ids, int64, shape [N].
        transform: RGB image to tensor.
    """

    def __init__(self, files: Sequence[str], labels: Tensor, transform: nn.Module) -> None:
        self.files = list(files)
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self.files[index]
        try:
            image = default_loader(file)
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, ... by image format
            raise ValueError(
                f"image {file!r} cannot be read ({type(error).__name__}: {error}); replace or remove the file"
            ) from error
        return self.transform(image), int(self.labels[index])


@dataclass(frozen=True, eq=False)
class ClassificationData:
    """One set of training samples in all its views, and the test samples.

    Args:
        name: Name of the data set.
        train: Training samples with the (noisy) labels and the training transform.
        train_eval: The same samples and labels, evaluation transform.
        clean_eval: The same samples with clean labels, evaluation transform; None where the truth is unknown
            or is given for diagnosis only.
        test: Test samples, evaluation transform.
        reference: Clean reference samples that the user brought, evaluation transform; None without.
        labels: Labels of `train`, int64, shape [N].
        clean_labels: Clean labels of the same samples, int64, shape [N]; None where unknown.
        num_classes: Number of classes C.
        input_shape: Shape of one sample after the transform, (channels, height, width) or (features,).
        noise: Noisy and clean labels with the kind of noise; None where no noise is known.
    """

    name: str
    train: Samples
    train_eval: Samples
    clean_eval: Samples | None
    test: Samples
    reference: Samples | None
    labels: Tensor
    clean_labels: Tensor | None
    num_classes: int
    input_shape: tuple[int, ...]
    noise: NoisyLabels | None


@dataclass(frozen=True)
class DatasetRecord:
    """What a data set needs and offers; help, documentation and checks are made from it.

    Args:
        name: What to write for it.
        description: What it is, one line.
        files: Files or folders needed, under the data root or in the given path.
        source: Where they come from.
        noises: Kinds of noise it can be loaded with.
        default_noise: The kind without a choice, in `noises`.
    """

    name: str
    description: str
    files: tuple[str, ...]
    source: str
    noises: tuple[str, ...]
    default_noise: str


DATASETS: dict[str, DatasetRecord] = {
    record.name: record
    for record in (
        DatasetRecord(
            name="cifar100n",
            description="CIFAR-100 (50,000 training and 10,000 test images, 100 classes) with the labels of "
            "CIFAR-N (real, 40.2 % wrong), clean labels or synthetic noise",
            files=("cifar-100-python/", "CIFAR-100_human.pt (for real)"),
            source=f"images: {_TORONTO}; labels: {_CIFAR_N}",
            noises=("real", "clean", *KINDS),
            default_noise="real",
        ),
        DatasetRecord(
            name="cifar10n",
            description="CIFAR-10 (50,000 training and 10,000 test images, 10 classes) with the labels of "
            "CIFAR-N (aggre 9.0 %, random1-3 17-18 %, worse 40.2 % wrong), clean labels or synthetic noise",
            files=("cifar-10-batches-py/", "CIFAR-10_human.pt (for aggre, worse, random1-3)"),
            source=f"images: {_TORONTO}; labels: {_CIFAR_N}",
            noises=("aggre", "worse", "random1", "random2", "random3", "clean", *KINDS),
            default_noise="worse",
        ),
    )
}

# Own data, by path: what `arrays` and `image_folder` read.
FORMATS: dict[str, DatasetRecord] = {
    record.name: record
    for record in (
        DatasetRecord(
            name="FILE.npz",
            description="Images (uint8 [N, H, W, C] or [N, H, W]) or features (float [N, D]) with integer labels",
            files=(
                "x_train, y_train, x_test, y_test",
                "y_train_clean (optional, for diagnosis)",
                "x_reference, y_reference (optional, clean)",
            ),
            source="your own, written by numpy.savez",
            noises=("none", *KINDS),
            default_noise="none",
        ),
        DatasetRecord(
            name="FOLDER",
            description="Image files, one folder per class",
            files=("train/CLASS/", "test/CLASS/ or val/CLASS/", "reference/CLASS/ (optional, clean)"),
            source="your own",
            noises=("none", *KINDS),
            default_noise="none",
        ),
    )
}


def load(
    dataset: PathLike,
    *,
    root: PathLike | None = None,
    noise: str | None = None,
    noise_rate: float | None = None,
    seed: int = 0,
    image_size: int = 224,
) -> ClassificationData:
    """Load a data set by name or by path.

    Args:
        dataset: A key of `DATASETS`, a path ending in .npz, or a folder of image files.
        root: Data root of the named data sets, None for the environment variable ALIGNPRUNE_DATA; paths
            ignore it.
        noise: Kind of noise, None for the data set's default.
        noise_rate: Nominal rate of synthetic noise in [0, 1]; None for other kinds.
        seed: Seed of synthetic noise.
        image_size: Height and width in pixels to which image files are brought; the other data sets ignore
            it.

    Returns:
        The data.

    Raises:
        ValueError: If the data set or the noise is unknown, or the files hold something else than expected.
        FileNotFoundError: If files are missing.
    """
    name = os.fspath(dataset)
    if name not in DATASETS:
        if name.endswith(".npz"):
            return arrays(name, noise or FORMATS["FILE.npz"].default_noise, noise_rate, seed)
        if os.path.isdir(name):
            return image_folder(name, noise or FORMATS["FOLDER"].default_noise, noise_rate, seed, image_size)
        choice("dataset", name, [*DATASETS, "the path of an .npz file", "a folder with train/ and test/"])
    return _NAMED[name](root, noise or DATASETS[name].default_noise, noise_rate, seed)


def cifar100n(
    root: PathLike | None = None, noise: str = "real", noise_rate: float | None = None, seed: int = 0
) -> ClassificationData:
    """CIFAR-100 with the labels of CIFAR-100N, clean labels or synthetic noise.

    Args:
        root: Data root with cifar-100-python/ and, for "real", CIFAR-100_human.pt; None for ALIGNPRUNE_DATA.
        noise: "real" (CIFAR-100N), "clean", "symmetric" or "pairflip".
        noise_rate: Nominal rate of synthetic noise in [0, 1]; None for "real" and "clean".
        seed: Seed of synthetic noise.

    Returns:
        The data; images are [3, 32, 32], normalised.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, the labels belong to other images, or the noise does not fit.

    Source: AlignPrune 4.1; Wei et al., "Learning with Noisy Labels Revisited" (CIFAR-N).
    """
    keys = {"real": "noisy_label"}
    return _cifar(DATASETS["cifar100n"], datasets.CIFAR100, "CIFAR-100_human.pt", keys, root, noise, noise_rate, seed)


def cifar10n(
    root: PathLike | None = None, noise: str = "worse", noise_rate: float | None = None, seed: int = 0
) -> ClassificationData:
    """CIFAR-10 with the labels of CIFAR-10N, clean labels or synthetic noise.

    Args:
        root: Data root with cifar-10-batches-py/ and, for the labels of people, CIFAR-10_human.pt; None for
            ALIGNPRUNE_DATA.
        noise: "aggre", "worse", "random1", "random2", "random3" (CIFAR-10N), "clean", "symmetric" or
            "pairflip".
        noise_rate: Nominal rate of synthetic noise in [0, 1]; None for the other kinds.
        seed: Seed of synthetic noise.

    Returns:
        The data; images are [3, 32, 32], normalised.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, the labels belong to other images, or the noise does not fit.

    Source: AlignPrune 4.1; Wei et al., "Learning with Noisy Labels Revisited" (CIFAR-N).
    """
    keys = {"aggre": "aggre_label", "worse": "worse_label"}
    keys |= {f"random{i}": f"random_label{i}" for i in (1, 2, 3)}
    return _cifar(DATASETS["cifar10n"], datasets.CIFAR10, "CIFAR-10_human.pt", keys, root, noise, noise_rate, seed)


_NAMED = {"cifar100n": cifar100n, "cifar10n": cifar10n}


def arrays(path: PathLike, noise: str = "none", noise_rate: float | None = None, seed: int = 0) -> ClassificationData:
    """Own data from an .npz file.

    Images are flipped and cropped (reflect padding of an eighth of the height) in training and normalised
    with the mean and standard deviation of the training images; features are standardised with those of the
    training set.

    Args:
        path: File with x_train, y_train, x_test, y_test; optional y_train_clean (known truth: diagnosis only,
            it never becomes the reference) and x_reference, y_reference (clean samples of your own).
        noise: "none", or "symmetric" or "pairflip" to add noise; the labels of the file then count as clean.
        noise_rate: Nominal rate of the added noise in [0, 1]; None for "none".
        seed: Seed of the added noise.

    Returns:
        The data.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an array is missing or has another shape, type or range than described.
    """
    _check_noise(FORMATS["FILE.npz"], noise, noise_rate)
    found = _read_arrays(Path(path))
    num_classes = _check_arrays(found)
    given = _labels(found["y_train"])
    known = _labels(found["y_train_clean"]) if "y_train_clean" in found else None
    if known is not None and noise != "none" and not torch.equal(known, given):
        raise ValueError(
            f"noise: {noise!r} given, but y_train_clean shows that y_train is noisy already; expected "
            "'none', or a file whose y_train is clean"
        )
    noisy = _draw(given, noise, noise_rate, num_classes, seed)
    if noisy is None and known is not None:
        noisy = _as_noise(given, known, "given")

    inputs, augment, finish = _prepare(found)

    def view(labels: Tensor, training: bool) -> TensorData:
        return TensorData(inputs["x_train"], labels, augment if training else None, finish)

    has_reference = "x_reference" in found
    return _assemble(
        name=Path(path).stem,
        view=view,
        given=given,
        noise=noisy,
        truth=given if noise != "none" else None,
        test=TensorData(inputs["x_test"], _labels(found["y_test"]), None, finish),
        reference=TensorData(inputs["x_reference"], _labels(found["y_reference"]), None, finish)
        if has_reference
        else None,
        num_classes=num_classes,
        input_shape=tuple(inputs["x_train"].shape[1:]),
    )


def image_folder(
    path: PathLike,
    noise: str = "none",
    noise_rate: float | None = None,
    seed: int = 0,
    image_size: int = 224,
) -> ClassificationData:
    """Own data from image files, one folder per class.

    Training crops are random (RandomResizedCrop, flip); otherwise the short side is resized to image_size /
    0.875 and the centre is cut out. Normalised with the mean and standard deviation of ImageNet.

    Args:
        path: Folder with train/CLASS/ and test/CLASS/ (or, without test/, val/CLASS/), optional
            reference/CLASS/ with clean samples. The classes are those of train/.
        noise: "none", or "symmetric" or "pairflip" to add noise; the folders then count as the clean labels.
        noise_rate: Nominal rate of the added noise in [0, 1]; None for "none".
        seed: Seed of the added noise.
        image_size: Height and width of a sample in pixels.

    Returns:
        The data; images are [3, image_size, image_size].

    Raises:
        FileNotFoundError: If a folder or the images of a class are missing.
        ValueError: If there are fewer than two classes, a class is unknown in train/, or an argument does not
            fit. An image that cannot be read raises one when it is loaded, with the name of the file.
    """
    _check_noise(FORMATS["FOLDER"], noise, noise_rate)
    if image_size < 1:
        raise ValueError(f"image_size: {image_size} given, expected a number of pixels >= 1")
    folder = Path(path)
    train = datasets.ImageFolder(str(_existing(folder / "train")))
    classes = train.class_to_idx
    if len(classes) < 2:
        raise ValueError(f"path: {str(folder / 'train')!r} holds {len(classes)} class, expected at least two")
    given = torch.tensor(train.targets, dtype=torch.int64)
    noisy = _draw(given, noise, noise_rate, len(classes), seed)
    files = [file for file, _ in train.samples]
    training, evaluation = _photo_transforms(image_size)

    def view(labels: Tensor, augmented: bool) -> ImageFiles:
        return ImageFiles(files, labels, training if augmented else evaluation)

    test = folder / "test" if (folder / "test").is_dir() or not (folder / "val").is_dir() else folder / "val"
    reference = folder / "reference"
    return _assemble(
        name=folder.resolve().name,
        view=view,
        given=given,
        noise=noisy,
        truth=given if noisy is not None else None,
        test=_folder_split(_existing(test), classes, evaluation),
        reference=_folder_split(reference, classes, evaluation) if reference.is_dir() else None,
        num_classes=len(classes),
        input_shape=(3, image_size, image_size),
    )


def limit(data: ClassificationData, size: int, seed: int) -> ClassificationData:
    """Keep a random, class-balanced subset of the training samples; test and reference stay as they are.

    Every class (by the labels of `train`, since the truth may be unknown) gives the same number of samples,
    plus or minus one; a class that has fewer gives all it has and the others make up for it.

    Args:
        data: The data.
        size: Training samples to keep, between the number of classes and the number of samples.
        seed: Seed of the draw; torch's global generator is not used.

    Returns:
        The same data with `size` training samples in their old order, consistent in labels, data sets and
        noise.

    Raises:
        ValueError: If size is out of its range.
    """
    total = len(data.labels)
    if not data.num_classes <= size <= total:
        raise ValueError(
            f"size: {size} given, expected {data.num_classes} (one sample per class) to {total} (all samples)"
        )
    kept = _balanced(data.labels, data.num_classes, size, torch.Generator().manual_seed(seed))
    indices = kept.tolist()
    noise = data.noise
    return replace(
        data,
        train=Subset(data.train, indices),
        train_eval=Subset(data.train_eval, indices),
        clean_eval=None if data.clean_eval is None else Subset(data.clean_eval, indices),
        labels=data.labels[kept],
        clean_labels=None if data.clean_labels is None else data.clean_labels[kept],
        noise=None if noise is None else replace(noise, labels=noise.labels[kept], clean=noise.clean[kept]),
    )


# -- shared by the loaders ---------------------------------------------------------------------------------


def _assemble(
    *,
    name: str,
    view: Callable[[Tensor, bool], Samples],
    given: Tensor,
    noise: NoisyLabels | None,
    truth: Tensor | None,
    test: Samples,
    reference: Samples | None,
    num_classes: int,
    input_shape: tuple[int, ...],
) -> ClassificationData:
    """Make all views from view(labels, augmented); truth = clean labels that may also serve as reference."""
    labels = given if noise is None else noise.labels
    return ClassificationData(
        name=name,
        train=view(labels, True),
        train_eval=view(labels, False),
        clean_eval=None if truth is None else view(truth, False),
        test=test,
        reference=reference,
        labels=labels,
        clean_labels=truth if noise is None else noise.clean,
        num_classes=num_classes,
        input_shape=input_shape,
        noise=noise,
    )


def _check_noise(record: DatasetRecord, noise: str, noise_rate: float | None) -> None:
    choice(f"{record.name}: noise", noise, record.noises)
    if noise in KINDS and noise_rate is None:
        raise ValueError(
            f"noise_rate: None given, expected a share in [0, 1] because noise is {noise!r}; for example 0.2"
        )
    if noise not in KINDS and noise_rate is not None:
        raise ValueError(
            f"noise_rate: {noise_rate} given, expected None because noise {noise!r} has the rate that it "
            f"has; leave it out, or choose the noise {' or '.join(KINDS)}"
        )


def _draw(given: Tensor, noise: str, noise_rate: float | None, num_classes: int, seed: int) -> NoisyLabels | None:
    """Synthetic noise on the given labels; None for a kind that is not drawn."""
    if noise not in KINDS or noise_rate is None:
        return None
    return corrupt(given, noise, noise_rate, num_classes, seed)


def _as_noise(labels: Tensor, clean: Tensor, kind: str) -> NoisyLabels:
    """Labels that were not drawn; their nominal rate is the measured one."""
    rate = int((labels != clean).sum()) / len(labels)
    return NoisyLabels(labels=labels, clean=clean, kind=kind, rate=rate, seed=None)


def _image_transforms(
    height: int, width: int, padding: int, mean: Sequence[float], std: Sequence[float]
) -> tuple[nn.Module, nn.Module]:
    """Random crop and flip of one uint8 image; normalisation of an image or a batch."""
    flip = v2.RandomHorizontalFlip()
    crop = v2.RandomCrop((height, width), padding=padding, padding_mode="reflect")
    finish = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])
    return v2.Compose([crop, flip]) if padding else flip, finish


def _balanced(labels: Tensor, num_classes: int, size: int, generator: torch.Generator) -> Tensor:
    """Indices [size], ascending, with class counts as equal as the classes allow."""
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


# -- CIFAR -------------------------------------------------------------------------------------------------


def _cifar(
    record: DatasetRecord,
    source: type[datasets.CIFAR10],
    label_file: str,
    keys: dict[str, str],
    root: PathLike | None,
    noise: str,
    noise_rate: float | None,
    seed: int,
) -> ClassificationData:
    """The images of torchvision's class; keys: the noises that the label file holds."""
    _check_noise(record, noise, noise_rate)
    folder = _data_root(root)
    train, test = (_torchvision(source, folder, part) for part in (True, False))
    clean = torch.tensor(train.targets, dtype=torch.int64)
    num_classes = len(train.classes)
    if noise in keys:
        human = _human_labels(folder / label_file, keys[noise], clean, num_classes)
        noisy: NoisyLabels | None = _as_noise(human, clean, noise)
    else:
        noisy = _draw(clean, noise, noise_rate, num_classes, seed)

    images = _channels_first(train.data)
    augment, finish = _image_transforms(32, 32, 4, CIFAR_MEAN, CIFAR_STD)

    def view(labels: Tensor, training: bool) -> TensorData:
        return TensorData(images, labels, augment if training else None, finish)

    return _assemble(
        name=record.name,
        view=view,
        given=clean,
        noise=noisy,
        truth=clean,
        test=TensorData(_channels_first(test.data), torch.tensor(test.targets, dtype=torch.int64), None, finish),
        reference=None,
        num_classes=num_classes,
        input_shape=(3, 32, 32),
    )


def _data_root(root: PathLike | None) -> Path:
    given = root or os.environ.get(DATA_ROOT)
    if not given:
        raise ValueError(
            "root: no data root given, expected the folder that holds the data; point to it with "
            f"--data-root or {DATA_ROOT}"
        )
    return Path(given)


def _torchvision(source: type[datasets.CIFAR10], root: Path, train: bool) -> datasets.CIFAR10:
    """Read the official files; torchvision compares their MD5 sums before it unpickles them."""
    listed = [*source.train_list, *source.test_list, [source.meta["filename"], source.meta["md5"]]]
    for file, _ in listed:
        _check_exists(root, root / source.base_folder / file, f"{_TORONTO} (archive {source.filename})")
    try:
        return source(str(root), train=train, download=False)
    except RuntimeError as error:
        damaged = [file for file, md5 in listed if not check_integrity(root / source.base_folder / file, md5)]
        raise ValueError(
            f"root: {', '.join(damaged)} in {str(root / source.base_folder)!r} differ from the official "
            f"files (MD5); unpack {source.filename} from {_TORONTO} again"
        ) from error


def _human_labels(file: Path, key: str, clean: Tensor, num_classes: int) -> Tensor:
    """Labels of CIFAR-N, after a check that they list the same images in the same order."""
    _check_exists(file.parent, file, f"{_CIFAR_N} (folder data)")
    found = _read_labels(file)
    if not {key, "clean_label"} <= found.keys():
        raise ValueError(
            f"root: {str(file)!r} holds {', '.join(found)}, expected clean_label and {key}; copy the file "
            f"from {_CIFAR_N} again"
        )
    labels, truth = (_labels(np.asarray(found[name])) for name in (key, "clean_label"))
    if not torch.equal(truth, clean):
        raise ValueError(
            f"root: clean_label of {str(file)!r} differs from the labels of the images, expected the same "
            "order; use the .pt file, not the _ordered.npy file, and the python version of the images"
        )
    if labels.shape != clean.shape or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(
            f"root: {key} of {str(file)!r} has shape {tuple(labels.shape)}, expected {len(clean)} class ids "
            f"in 0..{num_classes - 1}; copy the file from {_CIFAR_N} again"
        )
    return labels


def _read_labels(file: Path) -> dict[str, object]:
    # The file is a pickle of numpy arrays. Its authors load it with weights_only=False, which would run
    # whatever code a changed file holds; these three names are all that the official files need. They were
    # written by numpy 1, which knew the function under another name than numpy 2.
    reconstruct = np.empty(0).__reduce__()[0]
    allowed: list[Any] = [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        reconstruct,
        np.ndarray,
        np.dtype,
        type(np.dtype(np.int64)),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError, ... for a foreign file
        raise ValueError(
            f"root: {str(file)!r} cannot be read ({type(error).__name__}); copy it from {_CIFAR_N} again"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"root: {str(file)!r} holds a {type(found).__name__}, expected the dict of {_CIFAR_N}")
    return found


def _check_exists(root: Path, file: Path, source: str) -> None:
    if not file.is_file():
        raise FileNotFoundError(
            f"root: {str(file.relative_to(root))!r} is missing under the data root {str(root)!r}; it comes "
            f"from {source}. Point to the folder that holds it with --data-root or {DATA_ROOT}."
        )


# -- arrays ------------------------------------------------------------------------------------------------

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("y_train_clean", "x_reference", "y_reference")


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The known arrays of the file; others are reported and left out."""
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {str(path)!r}, expected an .npz file; check the path")
    try:
        with np.load(path, allow_pickle=False) as file:
            names = list(file.keys())
            found = {name: file[name] for name in names if name in _REQUIRED + _OPTIONAL}
    except Exception as error:  # numpy raises BadZipFile, ValueError (pickled objects), EOFError, ...
        raise ValueError(
            f"path: {str(path)!r} cannot be read ({type(error).__name__}: {error}); expected arrays of "
            "numbers written by numpy.savez"
        ) from error
    missing = [name for name in _REQUIRED if name not in found]
    if missing:
        raise ValueError(
            f"path: {str(path)!r} lacks {', '.join(missing)} (it holds {', '.join(names) or 'nothing'}), "
            f"expected {', '.join(_REQUIRED)}; optional: {', '.join(_OPTIONAL)}"
        )
    if ("x_reference" in found) != ("y_reference" in found):
        raise ValueError(f"path: {str(path)!r} holds one of x_reference and y_reference, expected both or neither")
    unknown = [name for name in names if name not in found]
    if unknown:
        warnings.warn(
            f"path: {str(path)!r} also holds {', '.join(unknown)}, which nothing reads; known are "
            f"{', '.join(_REQUIRED + _OPTIONAL)}",
            stacklevel=3,
        )
    return found


def _check_arrays(found: dict[str, np.ndarray]) -> int:
    """Check every array, alone and against the training arrays; gives the number of classes."""
    train = found["x_train"]
    for name in ("x_train", "x_test", "x_reference"):
        if name in found:
            _check_input_array(name, found[name])
            if found[name].shape[1:] != train.shape[1:] or found[name].dtype.kind != train.dtype.kind:
                raise ValueError(
                    f"{name}: samples of shape {found[name].shape[1:]} and dtype {found[name].dtype} given, "
                    f"expected {train.shape[1:]} and {train.dtype} as in x_train"
                )
    num_classes = _count_classes(found["y_train"], len(train))
    partners = {"y_test": "x_test", "y_train_clean": "x_train", "y_reference": "x_reference"}
    for name, partner in partners.items():
        if name in found:
            _check_label_array(name, found[name], len(found[partner]))
            low, high = int(found[name].min()), int(found[name].max())
            if low < 0 or high >= num_classes:
                raise ValueError(f"{name}: class ids {low}..{high} given, expected 0..{num_classes - 1} as in y_train")
    return num_classes


def _check_input_array(name: str, x: np.ndarray) -> None:
    image = x.dtype == np.uint8 and x.ndim in (3, 4)
    features = x.dtype.kind == "f" and x.ndim == 2
    if not image and not features:
        raise ValueError(
            f"{name}: dtype {x.dtype} and shape {x.shape} given, expected images, uint8 [N, H, W, C] or [N, "
            "H, W] with values 0..255, or features, float [N, D]; convert the array"
        )
    if x.size == 0:
        raise ValueError(f"{name}: shape {x.shape} given, expected at least one sample and one value in it")
    if x.ndim == 4 and x.shape[3] > 4:
        raise ValueError(
            f"{name}: shape {x.shape} given, expected [N, H, W, C] with at most 4 channels; move the "
            "channels to the end with x.transpose(0, 2, 3, 1)"
        )
    if features and not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(
            f"{name}: {x[row, column]} at [{row}, {column}] given, expected finite numbers; fill or remove the sample"
        )


def _check_label_array(name: str, y: np.ndarray, length: int) -> None:
    if y.dtype.kind not in "iu":
        raise ValueError(f"{name}: dtype {y.dtype} given, expected integer class ids; use y.astype('int64')")
    if y.shape != (length,):
        raise ValueError(
            f"{name}: shape {y.shape} given, expected ({length},), one class id per sample; one-hot rows "
            "become ids with y.argmax(1)"
        )


def _count_classes(y_train: np.ndarray, length: int) -> int:
    """Number of classes; the training labels must use every id from 0 up."""
    _check_label_array("y_train", y_train, length)
    ids = np.unique(y_train)
    if len(ids) < 2:
        raise ValueError(f"y_train: the one class id {ids[0]} given, expected at least two classes")
    if not np.array_equal(ids, np.arange(len(ids))):
        shown = ", ".join(str(i) for i in ids[:10]) + (", ..." if len(ids) > 10 else "")
        raise ValueError(
            f"y_train: class ids {shown} given, expected 0..{len(ids) - 1} without gaps; renumber all label "
            "arrays alike, for example with numpy.searchsorted(numpy.unique(y_train), y)"
        )
    return len(ids)


def _prepare(found: dict[str, np.ndarray]) -> tuple[dict[str, Tensor], nn.Module | None, nn.Module | None]:
    """Tensors of the x arrays, and the training and evaluation transforms that go with them."""
    x = {name: array for name, array in found.items() if name.startswith("x_")}
    train = x["x_train"]
    if train.ndim == 2:
        mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
        # A constant feature (up to rounding) carries nothing; a divisor of 1 leaves it at 0.
        std[std <= 1e-12 * np.abs(mean)] = 1
        scaled = {name: ((array - mean) / std).astype(np.float32) for name, array in x.items()}
        return {name: torch.from_numpy(array) for name, array in scaled.items()}, None, None
    images = {name: _channels_first(array) for name, array in x.items()}
    height, width = images["x_train"].shape[2:]
    mean_std = _pixel_statistics(images["x_train"])
    # Reflection needs a padding below the other side, too.
    augment, finish = _image_transforms(height, width, min(height // 8, width - 1), *mean_std)
    return images, augment, finish


def _channels_first(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, C] or [N, H, W] to [N, C, H, W]."""
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if tensor.ndim == 3:
        return tensor.unsqueeze(1)
    return tensor.permute(0, 3, 1, 2).contiguous()


def _pixel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of values scaled to [0, 1]."""
    channels = images.shape[1]
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for part in images.split(4096):  # bincount needs int64, eight times the memory of the images
        for channel in range(channels):
            counts[channel] += torch.bincount(part[:, channel].flatten().long(), minlength=256)
    weights = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(1)
    # A constant channel carries nothing; a divisor of 1 leaves it at 0.
    std = torch.where(variance > 0, variance.sqrt(), 1.0)
    return mean.tolist(), std.tolist()


def _labels(y: np.ndarray) -> Tensor:
    return torch.from_numpy(y.astype(np.int64))


# -- image files -------------------------------------------------------------------------------------------


def _photo_transforms(size: int) -> tuple[nn.Module, nn.Module]:
    """Training and evaluation transform of an RGB image of any size."""
    finish = [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD)),
    ]
    training = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *finish])
    evaluation = v2.Compose([v2.Resize(round(size / 0.875)), v2.CenterCrop(size), *finish])
    return training, evaluation


def _folder_split(folder: Path, classes: dict[str, int], transform: nn.Module) -> ImageFiles:
    """The images of a split, under the class ids of the training split."""
    split = datasets.ImageFolder(str(folder), allow_empty=True)
    foreign = [name for name in split.classes if name not in classes]
    if foreign:
        raise ValueError(
            f"path: {str(folder)!r} holds the classes {', '.join(foreign)}, which train/ does not have; "
            f"expected the classes {', '.join(classes)}"
        )
    if not split.samples:
        raise FileNotFoundError(f"path: {str(folder)!r} holds no image, expected CLASS/*.jpg or *.png")
    ids = [classes[split.classes[target]] for target in split.targets]
    return ImageFiles([file for file, _ in split.samples], torch.tensor(ids, dtype=torch.int64), transform)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"path: there is no folder {str(folder)!r}, expected train/CLASS/ and test/CLASS/ (or "
            "val/CLASS/) with image files"
        )
    return folder
