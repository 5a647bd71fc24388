"""The lock files that the two commands install from."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dvc.lock"])
def test_every_requirement_is_pinned_and_hashed(lock: str) -> None:
    """Nothing is resolved when they are installed, so a bare name with one version must be all there is."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    requirements = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]

    assert len(requirements) > 50
    pinned = re.compile(r"[A-Za-z0-9._-]+==\S+ .*--hash=sha256:[0-9a-f]{64}")
    assert [line for line in requirements if not pinned.match(line)] == []
