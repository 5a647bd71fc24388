"""The lock files that the two commands install from."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dvc.lock"])
def test_every_requirement_is_pinned_without_extras(lock: str) -> None:
    """pip takes `name[extra]==1` and `name` for two requirements and resolves the bare one to the newest release."""
    requirements = re.findall(r"^[a-zA-Z0-9].*$", (ROOT / lock).read_text(), flags=re.MULTILINE)

    assert len(requirements) > 50
    assert [line for line in requirements if not re.match(r"^[A-Za-z0-9._-]+==\S+", line)] == []
