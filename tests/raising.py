"""Errors that tests expect: by their type and what they tell a program, not by their words."""

from collections.abc import Mapping
from pathlib import Path
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
