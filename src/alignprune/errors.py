"""What the user can mend: exceptions of our own, so that a mistake is told from a bug.

Each says what was given, what was expected and what to do, and is also the built-in exception of its kind, so
``except ValueError`` goes on to work. Anything else that this library raises is a bug.
"""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can mend: the base of all below."""


class ValueMistake(UserError, ValueError):
    """A value that is out of range, unknown, or does not fit what it is given with."""


class TypeMistake(UserError, TypeError):
    """A value of a type that cannot be used."""


class CallMistake(UserError, RuntimeError):
    """A call at a moment when it makes no sense, such as the end of an epoch that was not read."""


class MissingFile(UserError, FileNotFoundError):
    """A file or folder that is not there."""


class ExistingFile(UserError, FileExistsError):
    """A file or folder that is there and would be overwritten."""


class DamagedFile(UserError, ValueError):
    """A file that is not what was written: truncated, changed, or in the place of another."""


class Diverged(UserError, RuntimeError):
    """A training whose losses are not finite any more."""


class LostRank(UserError, RuntimeError):
    """Another process of the same run that has ended, or does not answer."""


class MissingExtra(UserError, ImportError):
    """A library that is not installed, of one of the extras."""


__all__ = [
    "CallMistake",
    "DamagedFile",
    "Diverged",
    "ExistingFile",
    "LostRank",
    "MissingExtra",
    "MissingFile",
    "TypeMistake",
    "UserError",
    "ValueMistake",
]
