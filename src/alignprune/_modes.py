"""Modes of the caller: what is switched on for the network, and must not reach what the pruner keeps.

torch.compile, inference mode, autocast and a reduced matmul precision hold for all that is called while they are on.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch._compile import _disable_dynamo

from alignprune.errors import CallMistake

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_INNER = (
    "alignprune.pruner",
    "alignprune.recorder",
    "alignprune.running",
    "alignprune._modes",
    "torch._dynamo",
    "torch._compile",
)
"""Modules between a warning and the script that it is meant for."""


def plainly(method: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Run a method as it stands, wherever it is called from.

    A graph of torch.compile would record what it was traced with, so the method is left between two graphs. Tensors
    that were made in inference mode cannot be written to outside of it, so it is left. Inside a transform of torch.func
    a tensor has no values that could be recorded, so there the method is refused.

    Raises:
        CallMistake: inside a transform of torch.func.
    """

    @functools.wraps(method)
    def called(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if torch._C._are_functorch_transforms_active():
            raise CallMistake(
                f"pruner.{method.__name__} is called inside a transform of torch.func, expected outside, where a loss "
                f"is a number: transform the function that returns the losses, and reduce what comes out of it "
                f"(torch.func.vjp gives their gradients)"
            )
        if not torch.is_inference_mode_enabled():
            return method(*args, **kwargs)
        with torch.inference_mode(False):
            return method(*args, **kwargs)

    # As torch.compiler.disable, but the compiler, which takes a second to import, is loaded by the first call.
    return _disable_dynamo(called)


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Keep autocast and a reduced matmul precision away from what is computed on a device."""
    # Since torch 2.9 each backend has a precision of its own, and the one word for all fails where one of them was set.
    backends = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    each = all(hasattr(backend, "fp32_precision") for backend in backends)
    with torch.autocast(device.type, enabled=False), _by_backend(backends) if each else _by_one_word():
        yield


@contextmanager
def _by_backend(backends: Sequence[Any]) -> Iterator[None]:
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = "none"  # that is, what is set for all backends
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision


@contextmanager
def _by_one_word() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def warn(message: str) -> None:
    """Warn in the name of the training script: of whoever has called the pruner, past the frames of `plainly`."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_INNER):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
