"""What is done to a raw input before a network reads it: a record of steps that training and `predict` both build from.

raw input --step--> ... --step--> float32 tensor of the network's input shape

A step is a frozen record of plain values, so that it is stored as JSON; `build` makes the transform of it. What a data
set does to a sample that is not augmented is built from the same record, so the two cannot disagree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from alignprune._checks import choice
from alignprune.errors import ValueMistake

RAW = ("photo", "pixels", "features")
"""What a raw input can be: an RGB image of any size; uint8 [C, H, W]; float [D]."""


class Step(ABC):
    """One step; a subclass is a frozen dataclass of plain values and tuples of them."""

    kind: ClassVar[str]
    """What the JSON calls it."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The transform: of one photo, or else of a sample or of a batch of them."""


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


STEPS: dict[str, type[Step]] = {step.kind: step for step in (Photo, Pixels, Features)}
"""Every kind of step, by what the JSON calls it."""


@dataclass(frozen=True)
class Preparation:
    """From a raw input to the tensor that a network reads.

    Attributes:
        raw: what a raw input is, one of `RAW`.
        steps: in their order; without any the raw input is what the network reads.
        shape: of a raw input, (C, H, W) or (D,); None for photos, which may have any size.
        names: of the D features of a raw input, in their order; None where they have none.
    """

    raw: str
    steps: tuple[Step, ...] = ()
    shape: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        choice("raw", self.raw, RAW)

    def build(self) -> nn.Module:
        """The transform of one raw input, or, but for photos, of a batch of them, to float32."""
        return nn.Sequential(*(step.build() for step in self.steps), _AsFloat())

    def to_json(self) -> dict[str, Any]:
        """The record as JSON has it: plain values alone, the steps with their kinds."""
        steps = [{"kind": step.kind, **asdict(step)} for step in self.steps]  # type: ignore[call-overload]
        return {"raw": self.raw, "shape": self.shape, "names": self.names, "steps": steps}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Preparation:
        """The record that `to_json` wrote.

        Raises:
            ValueError: for a step or a value that there is not, or one that is missing.
        """
        _check_names("preparation", stored, {"raw", "shape", "names", "steps"})
        return Preparation(
            raw=stored["raw"],
            steps=tuple(map(_step, stored["steps"])),
            shape=_as_tuple(stored["shape"]),
            names=_as_tuple(stored["names"]),
        )


def _step(stored: Mapping[str, Any]) -> Step:
    choice("preparation.steps.kind", stored.get("kind"), STEPS)
    record: Any = STEPS[stored["kind"]]
    _check_names("preparation.steps", stored, {"kind", *(field.name for field in fields(record))})
    values = {name: _as_tuple(value) for name, value in stored.items() if name != "kind"}
    made: Step = record(**values)
    return made


def _check_names(what: str, stored: Mapping[str, Any], expected: set[str]) -> None:
    if set(stored) != expected:
        raise ValueMistake(
            f"{what}={sorted(stored)} is another record, expected the values {', '.join(sorted(expected))}: it was "
            f"changed, or written by another version"
        )


def _as_tuple(value: Any) -> Any:
    """JSON has lists where the records have tuples."""
    return tuple(value) if isinstance(value, list) else value
