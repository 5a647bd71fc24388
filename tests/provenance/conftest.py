import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tiny_chain

from secpipeline.provenance.keys import KeyRing


@pytest.fixture(scope="session")
def ring(tmp_path_factory):
    return KeyRing.create(tmp_path_factory.mktemp("keys") / "ring")


@pytest.fixture(scope="session")
def strangers(tmp_path_factory):
    return KeyRing.create(tmp_path_factory.mktemp("keys") / "strangers")


@pytest.fixture(scope="session")
def built(tmp_path_factory, ring):
    return tiny_chain.build(tmp_path_factory.mktemp("chain") / "chain", ring)


@pytest.fixture
def chain(built, tmp_path):
    return built.copy(tmp_path / "chain")
