"""Refuse a wrong setting where it is made: what was given, what is expected, what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real

from alignprune.errors import TypeMistake, ValueMistake

_LONG, _MANY = 200, 2_000  # characters that a mistake repeats: of a value, which a file may hold, and of a list


def described(value: object) -> str:
    """A value as a message shows it, in one line: a tensor or an array by its dtype and shape."""
    if getattr(value, "ndim", 0):
        return f"{value.dtype} {tuple(value.shape)}"  # type: ignore[attr-defined]
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


def integer(name: str, value: object, *, at_least: int, remedy: str) -> int:
    """Return ``value`` if it is an integer (no bool) of at least ``at_least``; raise otherwise."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeMistake(
            f"{name}={described(value)} is {type(value).__name__}, expected an integer >= {at_least}: {remedy}"
        )
    if value < at_least:
        raise ValueMistake(f"{name}={described(value)} is out of range, expected an integer >= {at_least}: {remedy}")
    return int(value)


def number(name: str, value: object, *, low: float, high: float, remedy: str, open_high: bool = False) -> float:
    """Return ``value`` if it is a finite number in [low, high], or [low, high) with ``open_high``; raise otherwise."""
    interval = f"{'[' if math.isfinite(low) else '('}{low:g}, {high:g}{')' if open_high or high == math.inf else ']'}"
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeMistake(
            f"{name}={described(value)} is {type(value).__name__}, expected a number in {interval}: {remedy}"
        )
    given = float(value)
    inside = low <= given < high if open_high else low <= given <= high  # false for NaN
    if not inside or math.isinf(given):
        raise ValueMistake(f"{name}={described(value)} is out of range, expected a number in {interval}: {remedy}")
    return given


def choice(name: str, value: object, known: Iterable[str]) -> None:
    """Raise unless ``value`` is one of ``known``; the message names the nearest."""
    options = list(known)
    if value not in options:
        near = difflib.get_close_matches(str(value), options, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        listed = ", ".join(options)
        shown = listed if len(listed) <= _MANY else f"{listed[:_MANY]}... ({len(options):,})"
        raise ValueMistake(f"{name}={described(value)} is unknown, expected one of {shown}{hint:.{_LONG}}")


def floor(value: float) -> int:
    """The floor of a product such as ``0.7 * 10``, whose float64 value may lie a rounding below the integer."""
    return math.floor(round(value, 9))
