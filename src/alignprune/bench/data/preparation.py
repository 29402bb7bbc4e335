"""What is done to a raw input before a network reads it: a record of steps that training and `predict` both build from.

raw input --step--> ... --step--> float32 tensor of the network's input shape

A step is a frozen record of plain values, so that it is stored as JSON; `build` makes the transform of it. What a data
set does to a sample that is not augmented is built from the same record, so the two cannot disagree. A step that holds
more than JSON has room for, such as an embedder, is kept in files beside the record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from alignprune._checks import choice
from alignprune.errors import ValueMistake

RAW = ("photo", "pixels", "features", "text")
"""What a raw input can be: an RGB image of any size; uint8 [C, H, W]; float [D]; a string."""


class Embeds(Protocol):
    """What turns many samples into vectors at once."""

    def embed(self, samples: Any, progress: Callable[[int, int], object] | None = None) -> Tensor:
        """The vectors of some samples, float32 [N, D]; `progress` is called with the samples done and N."""


class Step(ABC):
    """One step; a subclass is a frozen dataclass."""

    kind: ClassVar[str]
    """What the JSON calls it."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The transform: of one photo, or else of a sample or of a batch of them."""

    def values(self) -> dict[str, Any]:
        """The record as JSON has it, plain values by their names."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def names(cls) -> set[str]:
        """Of the values."""
        record: Any = cls
        return {field.name for field in fields(record)}

    @classmethod
    def read(cls, values: Mapping[str, Any], folder: Path) -> Step:
        """The step of some values; `folder` is where `save` wrote."""
        return cls(**values)

    def embeds(self) -> Embeds | None:
        """What embeds the raw inputs in this step; None = nothing does."""
        return None

    def save(self, folder: Path) -> None:  # noqa: B027  most steps are whole in JSON
        """Write into a folder what JSON has no room for."""


@dataclass(frozen=True)
class Photo(Step):
    """The centre of a photo, normalised: RGB image to float32 [3, crop, crop].

    Attributes:
        resize: pixels that the photo is resized to first: (short side,), or (height, width) whatever its shape.
        crop: height and width of the centre that is cut out.
        mean, std: of each channel, of values in [0, 1].
    """

    kind: ClassVar[str] = "photo"
    resize: tuple[int, ...]
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def build(self) -> nn.Module:
        from torchvision.transforms import v2

        return nn.Sequential(
            v2.Resize(list(self.resize)),
            v2.CenterCrop(self.crop),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(self.mean), list(self.std)),
        )


@dataclass(frozen=True)
class Pixels(Step):
    """Images of a fixed size, normalised: uint8 [..., C, H, W] to float32.

    Attributes:
        mean, std: of each channel, of values in [0, 1].
    """

    kind: ClassVar[str] = "pixels"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def build(self) -> nn.Module:
        from torchvision.transforms import v2

        return nn.Sequential(
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(self.mean), list(self.std)),
        )


@dataclass(frozen=True)
class Resized(Step):
    """Images of one size at another, by the four nearest pixels: float32 [..., C, H, W] to [..., C, size, size].

    Attributes:
        size: height and width in pixels.
    """

    kind: ClassVar[str] = "resized"
    size: int

    def build(self) -> nn.Module:
        from torchvision.transforms import v2

        return v2.Resize([self.size, self.size], v2.InterpolationMode.BILINEAR, antialias=True)


@dataclass(frozen=True)
class Features(Step):
    """Features, standardised: real numbers [..., D] to float32, computed in float64.

    Attributes:
        mean, std: of each feature.
    """

    kind: ClassVar[str] = "features"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def build(self) -> nn.Module:
        return _Standardise(self.mean, self.std)


class _Standardise(nn.Module):
    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))

    def forward(self, x: Tensor) -> Tensor:
        return ((x.double() - self.mean) / self.std).float()


class _AsFloat(nn.Module):
    """What comes without a step, in double precision, is read by a network in float32 all the same."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


STEPS: dict[str, type[Step]] = {step.kind: step for step in (Photo, Pixels, Resized, Features)}
"""The kinds of step that are whole in JSON, by what it calls them."""


@dataclass(frozen=True)
class Preparation:
    """From a raw input to the tensor that a network reads.

    Attributes:
        raw: what a raw input is, one of `RAW`.
        steps: in their order; without any the raw input is what the network reads.
        shape: of a raw input, (C, H, W) or (D,); None for photos and texts, which may have any size.
        names: of the D features of a raw input, in their order; None where they have none.
    """

    raw: str
    steps: tuple[Step, ...] = ()
    shape: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        choice("raw", self.raw, RAW)

    @property
    def embedder(self) -> Embeds | None:
        """What embeds the raw inputs, where something does: it is fastest with many at once."""
        return self.steps[0].embeds() if self.steps else None

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation of each channel of the images, of values in [0, 1]; None where they are no images."""
        found = [step for step in self.steps if isinstance(step, (Photo, Pixels))]
        return (found[0].mean, found[0].std) if found else None

    def build(self) -> nn.Module:
        """The transform of one raw input to float32.

        But for photos it also takes a batch of them; before an embedder a list of photos or texts is one, too.
        """
        return nn.Sequential(*(step.build() for step in self.steps), _AsFloat())

    def save(self, folder: Path) -> None:
        """Write what the JSON has no room for beside it."""
        for step in self.steps:
            step.save(folder)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON has it: plain values alone, the steps with their kinds."""
        steps = [{"kind": step.kind, **step.values()} for step in self.steps]
        return {"raw": self.raw, "shape": self.shape, "names": self.names, "steps": steps}

    @staticmethod
    def from_json(stored: Mapping[str, Any], folder: Path = Path(), further: Iterable[type[Step]] = ()) -> Preparation:
        """The record that `to_json` wrote.

        Args:
            stored: the record.
            folder: where `save` wrote.
            further: kinds of step that it may have beside `STEPS`.

        Raises:
            FileNotFoundError, ImportError: if an embedder, or the weights that it needs, are not there.
            ValueError: for a step or a value that there is not, or one that is missing, and for other weights.
        """
        _check_names("preparation", stored, {"raw", "shape", "names", "steps"})
        kinds = STEPS | {step.kind: step for step in further}
        return Preparation(
            raw=stored["raw"],
            steps=tuple(_step(step, folder, kinds) for step in stored["steps"]),
            shape=_as_tuple(stored["shape"]),
            names=_as_tuple(stored["names"]),
        )


def _step(stored: Mapping[str, Any], folder: Path, kinds: Mapping[str, type[Step]]) -> Step:
    choice("preparation.steps.kind", stored.get("kind"), kinds)
    record = kinds[stored["kind"]]
    _check_names("preparation.steps", stored, {"kind", *record.names()})
    return record.read({name: _as_tuple(value) for name, value in stored.items() if name != "kind"}, folder)


def _check_names(what: str, stored: Mapping[str, Any], expected: set[str]) -> None:
    if set(stored) != expected:
        raise ValueMistake(
            f"{what}={sorted(stored)} is another record, expected the values {', '.join(sorted(expected))}: it was "
            f"changed, or written by another version"
        )


def _as_tuple(value: Any) -> Any:
    """JSON has lists where the records have tuples."""
    return tuple(value) if isinstance(value, list) else value
