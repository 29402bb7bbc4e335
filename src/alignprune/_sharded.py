"""The state of ranks that own parts, for torch.distributed.checkpoint: tensors of all samples, of which each has some.

The same names and shapes at any moment and on any number of ranks, which is what such a checkpoint can load: tables
that hold a number a sample, in the common order of the ownership, and one text of all that is the same on every rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from alignprune._checks import described, integer
from alignprune._tensors import DAMAGED, check_names, check_tensors
from alignprune.errors import TypeMistake, ValueMistake
from alignprune.memory.contract import Memory
from alignprune.ownership import Ownership

_MAYBE = {"losses": (math.nan, torch.float32), "predicted": (-1, torch.int32), "steps": (-1, torch.int32)}
"""Tables of an epoch that was begun, which not every moment has: what stands for nothing in them, and their dtype."""


def sharded(state: Mapping[str, Any], memories: Sequence[Memory], ownership: Ownership) -> dict[str, Any]:
    """A rank's own state as its part of the state of all.

    Args:
        state: what is of this rank's samples, by slot: as `Pruner.state_dict` makes it for ranks that remember all.
        memories: whose states it holds.
        ownership: who owns what.

    Returns:
        ``values``, a text, and ``tables``, tensors [..., N] of which this rank holds its part.
    """
    size = ownership.size
    tables, values = _split_selection(state["selection"], size)
    for name, (nothing, kind) in _MAYBE.items():
        values[name] = state[name] is not None
        tables[name] = torch.full((size,), nothing, dtype=kind) if state[name] is None else state[name]
    tables |= {name: state[name] for name in ("scores", "unread")}
    values |= {name: value for name, value in state.items() if name not in (*tables, *values, "memories", "reference")}
    values["reference"] = state["reference"].tolist()
    values["memories"] = []
    for place, (memory, held) in enumerate(zip(memories, state["memories"], strict=True)):
        held = memory.padded(held)
        tables |= {f"memory{place}.{name}": part for name, part in held.items() if isinstance(part, Tensor)}
        values["memories"].append({name: part for name, part in held.items() if not isinstance(part, Tensor)})
    return {
        "values": json.dumps(values),
        "tables": {name: _sharded(table, ownership) for name, table in tables.items()},
    }


def unsharded(state: Any, memories: Sequence[Memory], ownership: Ownership) -> dict[str, Any]:
    """A rank's own state, from its part of the state of all that a checkpoint was loaded into.

    Raises:
        TypeMistake, ValueMistake: for what `sharded` has not made.
    """
    if not isinstance(state, dict) or not {"values", "tables"} <= state.keys():
        raise TypeMistake(
            f"state={described(state)} is no state of ranks that own parts, expected what pruner.state_dict() has "
            f"returned, read by torch.distributed.checkpoint.load: ownership='replicated' loads states of one file"
        )
    try:
        values = json.loads(state["values"])
    except (TypeError, ValueError):
        raise ValueMistake(
            f"state.values={described(state['values'])} is no text of values, expected one: {DAMAGED}"
        ) from None
    tables = {name: _own(table, ownership) for name, table in state["tables"].items()}
    check_names("state.values", values, ("memories", "reference", "selection", "world", *_MAYBE))
    check_names("state.tables", tables, ("scores", "unread", "selected", "weights", "suspects", *_MAYBE))
    integer("state.world", values["world"], at_least=1, remedy=DAMAGED)
    flags = torch.empty(ownership.size, dtype=torch.uint8)
    check_tensors("state", tables, dict.fromkeys(("unread", "selected", "suspects"), flags))
    out = {name: value for name, value in values.items() if name not in ("memories", "selection", "reference")}
    for name in _MAYBE:
        out[name] = tables[name] if values[name] else None
    out |= {name: tables[name] for name in ("scores", "unread")}
    out["reference"] = torch.tensor(values["reference"], dtype=torch.float64)
    out["selection"] = _joined_selection(values["selection"], tables)
    out["memories"] = [
        plain | {name.partition(".")[2]: table for name, table in tables.items() if name.startswith(f"memory{place}.")}
        for place, plain in enumerate(values["memories"])
    ]
    return out


def _split_selection(state: Mapping[str, Any], size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tables of a selection, and its values."""
    indices = torch.arange(size) if state["indices"] is None else state["indices"]
    suspects, weights = state["suspects"], torch.ones(size)
    if state["weights"] is not None:
        weights[indices] = state["weights"]
    tables = {
        "selected": torch.zeros(size, dtype=torch.uint8).index_fill_(0, indices, 1),
        "suspects": torch.zeros(size, dtype=torch.uint8),
        "weights": weights,
    }
    if suspects is not None:
        tables["suspects"].index_fill_(0, suspects, 1)
    plain = {
        name: value for name, value in state.items() if name not in ("indices", "weights", "suspects", "num_samples")
    }
    return tables, {"selection": plain | {"weighs": state["weights"] is not None, "flags": suspects is not None}}


def _joined_selection(values: Mapping[str, Any], tables: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state of a selection."""
    plain = dict(values)
    weighs, flags = plain.pop("weighs"), plain.pop("flags")
    indices = tables["selected"].nonzero().squeeze(1)
    return plain | {
        "indices": indices,
        "weights": tables["weights"][indices] if weighs else None,
        "suspects": tables["suspects"].nonzero().squeeze(1) if flags else None,
        "num_samples": len(tables["selected"]),
    }


def _sharded(table: Tensor, ownership: Ownership) -> Any:
    """A table [..., n] as a part of one [..., N] in the common order; where one rank has all, that one."""
    if not ownership.shared:  # whose slots are the samples' own indices
        return table[..., torch.from_numpy(ownership.samples_at(0, ownership.num_samples))]
    from torch.distributed._shard.sharded_tensor import init_from_local_shards
    from torch.distributed._shard.sharded_tensor.shard import Shard

    shards, slot, before = [], 0, [0] * (table.ndim - 1)
    for start, stop in ownership.intervals:
        part = table.narrow(-1, slot, stop - start).contiguous()
        shards.append(Shard.from_tensor_and_offsets(part, [*before, start], ownership.rank))
        slot += stop - start
    return init_from_local_shards(shards, *table.shape[:-1], ownership.num_samples)


def _own(table: Any, ownership: Ownership) -> Tensor:
    """This rank's part [..., n] of a table that `_sharded` has made."""
    if isinstance(table, Tensor) and not ownership.shared and table.shape[-1:] == (ownership.num_samples,):
        by_sample = torch.empty_like(table)
        by_sample[..., torch.from_numpy(ownership.samples_at(0, ownership.num_samples))] = table
        return by_sample
    if not hasattr(table, "local_shards"):
        raise TypeMistake(f"state.tables holds {described(table)}, expected tensors: {DAMAGED}")
    parts = [shard.tensor for shard in table.local_shards()]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
