"""A source's manifest is named so that the name alone gives the source back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secpipeline.digests import check_name
from secpipeline.errors import InputError
from secpipeline.provenance.sources import manifest_name, source_of


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_any_source_has_a_safe_file_name_that_gives_it_back(source):
    name = manifest_name(source)
    assert check_name(name) == name
    assert name.count("/") == 1
    assert len(name.rpartition("/")[2]) <= 255
    assert source_of(f"ingest/{name}") == source


@given(st.text(max_size=10), st.text(max_size=10))
def test_two_sources_have_two_names(one, other):
    names = []
    for source in (one, other):
        try:
            names.append(manifest_name(source))
        except InputError:
            return
    assert (names[0] == names[1]) == (one == other)


@pytest.mark.parametrize("source", ["", "\ud800", "x" * 300, "ä" * 50])
def test_a_source_that_no_file_can_be_named_after_is_one_clear_error(source):
    with pytest.raises(InputError, match="rename the source"):
        manifest_name(source)


@pytest.mark.parametrize(
    "artifact", ["", "sources/a.sha256", "ingest/a.sha256", "ingest/sources/a.txt", "ingest/other/sources/a.sha256"]
)
def test_what_is_no_manifest_names_no_source(artifact):
    assert source_of(artifact) == ""
