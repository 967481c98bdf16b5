"""Errors that tests expect: by their type and what they tell a program, not by their words."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ctkit.errors import CtkitError


def fails(kind: type[CtkitError], **facts: Any) -> pytest.RaisesExc[CtkitError]:
    """Expect an error with these attributes; a path stands for its text."""
    expected = {name: str(fact) if isinstance(fact, Path) else fact for name, fact in facts.items()}

    def has_facts(error: CtkitError) -> bool:
        found: Mapping[str, Any] = vars(error)
        assert {name: found.get(name) for name in expected} == expected
        return True

    return pytest.raises(kind, check=has_facts)


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, module: ModuleType, step: str, *, after: bool) -> Iterator[None]:
    """Interrupt what runs inside before or after a step, a function of a module, and expect that."""
    do = getattr(module, step)

    def interrupt(*arguments: Any, **options: Any) -> None:
        if after:
            do(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            yield
