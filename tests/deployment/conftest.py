import shutil
import sys
from pathlib import Path

import pytest
from attackable_channel import Place

from secpipeline.provenance.keys import KeyRing

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("provenance", "detection")]


@pytest.fixture(scope="session")
def ring(tmp_path_factory):
    return KeyRing.create(tmp_path_factory.mktemp("ring") / "keys")


@pytest.fixture
def own_ring(ring, tmp_path):
    """A ring that a test may change."""
    shutil.copytree(ring.directory, tmp_path / "keys")
    return KeyRing.open(tmp_path / "keys")


@pytest.fixture
def place(tmp_path, ring):
    return Place(tmp_path, ring)
