"""The runs that a question begins at."""

import pytest

from secpipeline.digests import sha256_bytes
from secpipeline.errors import InputError
from secpipeline.provenance.lineage.queries import makers, touched


@pytest.mark.parametrize(
    ("target", "words"), [("0" * 64, "no signed run"), ("xyz", "not a SHA-256"), ("abc", "8 to 64")]
)
def test_a_file_that_nobody_made_is_one_clear_error(chain, target, words):
    with pytest.raises(InputError, match=words):
        makers(chain.history(), target)


def test_what_nobody_made_is_found_by_those_who_read_it(chain):
    found = chain.history()
    assert [run.stage for run in touched(found, sha256_bytes(b"d"))] == ["ingest"]
    with pytest.raises(InputError, match="no signed run made"):
        makers(found, sha256_bytes(b"d"))
