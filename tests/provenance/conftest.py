import functools
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import bill_evidence
import street_chain
import tiny_chain
from jsonschema import Draft7Validator

from secpipeline.provenance.bill_of_materials.document import build
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


@pytest.fixture
def street(tmp_path, ring):
    return street_chain.found(tmp_path / "street", ring)


@pytest.fixture(scope="module")
def each_address_is_parsed_once():
    """The schema's check of an address takes ten milliseconds, and every bill here has the same ones."""
    checkers = Draft7Validator.FORMAT_CHECKER.checkers
    check_address, raises = checkers["iri-reference"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(checkers, "iri-reference", (functools.cache(check_address), raises))
        yield


@pytest.fixture
def evidence(tmp_path):
    return bill_evidence.make(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A bill and the files that evidence covers; nobody changes them."""
    found = bill_evidence.make(tmp_path_factory.mktemp("bill"))
    return build(found.read()), found.covered()


@pytest.fixture
def bill(finished):
    return json.loads(finished[0])
