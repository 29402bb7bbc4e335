"""What a finished run leaves to be used: the weights of its last or best epoch, and all that a new sample is read with.

model.safetensors  the weights, by the names of the network's state dict
model.json         the record `TrainedModel`: network, input shape, class names, precision, preparation
embedder.*         what turns images or texts into vectors, where the network reads such: `FittedEmbedder`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignprune._files import Kind, check_seal, write_sealed
from alignprune.bench import models
from alignprune.bench.data.embedding import Embedding
from alignprune.bench.data.preparation import Preparation
from alignprune.bench.files import read_record, write_record
from alignprune.bench.reading import naming, reading
from alignprune.errors import CallMistake, MissingFile

WEIGHTS, RECORD = "model.safetensors", "model.json"
_AGAIN = "train the run again, in another folder"
WEIGHTS_KIND, RECORD_KIND = Kind("weights", 1, _AGAIN), Kind("model", 1, _AGAIN)


@dataclass(frozen=True)
class TrainedModel:
    """What a trained network reads and says.

    Attributes:
        network: a name for `alignprune.bench.models.create`.
        input_shape: of a prepared sample, (channels, height, width) or (features,).
        class_names: C names, in the order of the logits.
        precision: of the forward pass that the run was judged in: "32", "16" or "bf16".
        preparation: from a raw input to the tensor that the network reads.
    """

    network: str
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    precision: str
    preparation: Preparation

    def to_json(self) -> dict[str, Any]:
        """The record as model.json holds it."""
        return {
            "network": self.network,
            "input_shape": self.input_shape,
            "num_classes": len(self.class_names),
            "class_names": self.class_names,
            "precision": self.precision,
            "preparation": self.preparation.to_json(),
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any], folder: Path) -> TrainedModel:
        """The record that `to_json` wrote into a run's folder."""
        return TrainedModel(
            network=stored["network"],
            input_shape=tuple(stored["input_shape"]),
            class_names=tuple(stored["class_names"]),
            precision=stored["precision"],
            preparation=Preparation.from_json(stored["preparation"], folder, (Embedding,)),
        )

    def create(self) -> nn.Module:
        """The network with fresh weights, laid out in memory as in training."""
        return laid_out(models.create(self.network, len(self.class_names), self.input_shape), self.input_shape)


def laid_out(network: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """The network, in the memory layout that its samples are fastest in."""
    if len(input_shape) == 3:
        return network.to(memory_format=torch.channels_last)  # half as fast again on a CPU, faster in bf16
    return network


def save(folder: Path, record: TrainedModel, network: nn.Module) -> None:
    """Write the weights and then the record, each whole or not at all.

    Args:
        folder: the run's.
        record: what belongs to the weights.
        network: the network itself, not as Fabric wraps it.
    """
    from safetensors.torch import save as as_bytes

    # Copies, because the format refuses tensors that share memory or are not laid out row by row.
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    content = as_bytes(weights, metadata={"seal": WEIGHTS_KIND.blank})
    write_sealed(folder / WEIGHTS, WEIGHTS_KIND, lambda file: file.write(content))
    record.preparation.save(folder)
    write_record(folder / RECORD, RECORD_KIND, record.to_json())


def load(run: Path) -> tuple[nn.Module, TrainedModel]:
    """The trained network of a finished run, on the CPU and in evaluation mode, and its record.

    Args:
        run: the run's folder.

    Raises:
        FileNotFoundError: if there is no run, one without a model, or no weights of its embedder.
        ImportError: if what its embedder needs is not installed.
        RuntimeError: if the run is not finished.
        ValueError: if the files are damaged or of another version, or the embedder's weights are others.
    """
    from safetensors.torch import load_file

    stored = _record(run)
    check_seal(run / WEIGHTS, WEIGHTS_KIND)
    place = f"run={str(run)!r}: {RECORD}"
    with naming(place), reading(place, run / RECORD, "the record of a trained model", "train it again"):
        record = TrainedModel.from_json(stored, run)
        with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, and then replaced
            network = record.create()
    with reading(f"run={str(run)!r}: {WEIGHTS}", run / WEIGHTS, f"the weights of {record.network}", "train it again"):
        network.load_state_dict(load_file(run / WEIGHTS))
    return network.eval(), record


def _record(run: Path) -> dict[str, Any]:
    if not (run / "config.json").exists():
        raise MissingFile(
            f"run={str(run)!r} is no run, expected the folder that alignprune train wrote: check the path"
        )
    if not (run / "result.json").exists():
        raise CallMistake(
            f"run={str(run)!r} is not finished, expected one that is: finish it with --resume and the options that it "
            f"was started with"
        )
    for name in (RECORD, WEIGHTS):
        if not (run / name).exists():
            raise MissingFile(
                f"run={str(run)!r} is without {name}, expected the model that a finished run leaves: train it again, "
                f"in another folder"
            )
    return read_record(run / RECORD, RECORD_KIND)
