"""Mistakes of the user: told from bugs by one base, caught by those who know only the built-in exceptions."""

from __future__ import annotations

import pytest

from alignprune import errors
from alignprune.errors import UserError


@pytest.mark.parametrize(
    "mistake, builtin",
    [
        (errors.ValueMistake, ValueError),
        (errors.TypeMistake, TypeError),
        (errors.CallMistake, RuntimeError),
        (errors.MissingFile, FileNotFoundError),
        (errors.ExistingFile, FileExistsError),
        (errors.LostRank, RuntimeError),
        (errors.MissingExtra, ImportError),
    ],
)
def test_a_mistake_is_a_user_error_and_the_built_in_of_its_kind(
    mistake: type[UserError], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin, match="window=1 is out of range") as caught:
        raise mistake("window=1 is out of range")
    assert isinstance(caught.value, UserError)
    assert str(caught.value) == "window=1 is out of range"


def test_the_built_in_exceptions_are_no_mistakes_of_the_user() -> None:
    for bug in (ValueError, TypeError, RuntimeError, OSError, FileNotFoundError, ImportError):
        assert not issubclass(bug, UserError)


def test_every_public_error_is_a_user_error() -> None:
    assert all(issubclass(getattr(errors, name), UserError) for name in errors.__all__)
