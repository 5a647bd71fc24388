import hashlib
import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secpipeline.digests import canonical_json, check_name, manifest_bytes, sha256_file, tree_digest, tree_files
from secpipeline.errors import InputError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=600_000))
def test_file_digest_equals_hashlib(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("digest") / "file"
    path.write_bytes(data)
    assert sha256_file(path) == hashlib.sha256(data).hexdigest()


@given(json_values)
def test_canonical_json_round_trips_and_ignores_key_order(value):
    encoded = canonical_json(value)
    assert json.loads(encoded) == value
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == encoded


@pytest.mark.parametrize("value", [{"a": [1.0, float("nan")]}, {"a": {"b": float("inf")}}, {1: 2}])
def test_canonical_json_refuses_what_json_cannot_say_and_names_it(value):
    with pytest.raises(InputError, match=r"\$"):
        canonical_json(value)


@pytest.mark.parametrize("name", ["", "/a", "a/../b", "./a", "a//b", "a\\b", "a\nb", "e\u0301", "a\x7f"])
def test_unsafe_names_are_refused(name):
    with pytest.raises(InputError, match="rename"):
        check_name(name)


def test_tree_lists_files_sorted_and_refuses_links(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/2").write_text("two")
    (tmp_path / "a").write_text("one")
    files = tree_files(tmp_path)
    assert list(files) == ["a", "b/2"]
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(InputError, match="link"):
        tree_files(tmp_path)


def test_manifest_is_accepted_by_sha256sum(tmp_path):
    (tmp_path / "x y").write_bytes(b"1")
    (tmp_path / "z").write_bytes(b"2")
    files = tree_files(tmp_path)
    manifest = manifest_bytes(files)
    assert subprocess.run(["sha256sum", "-c", "-"], input=manifest, cwd=tmp_path, check=False).returncode == 0
    assert tree_digest(files) == hashlib.sha256(manifest).hexdigest()
