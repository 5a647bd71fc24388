import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline import yaml_files
from secpipeline.errors import InputError


def test_a_value_is_read_as_it_is_written(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("epochs: 3\nnested: {a: [1, two]}\n")
    assert yaml_files.read(path, "missing") == {"epochs": 3, "nested": {"a": [1, "two"]}}


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: copy the shipped one"):
        yaml_files.read(tmp_path / "none.yaml", "copy the shipped one")


def test_a_directory_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        yaml_files.read(tmp_path, "missing")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "there twice"),
        ("a: {b: 1, b: 2}", "there twice"),
        ("a: [open", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: 2026-02-30", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_what_can_be_read_two_ways_or_not_at_all_is_refused(text, words):
    with pytest.raises(InputError, match=words) as refused:
        yaml_files.parse(text, "policy.yaml")
    assert str(refused.value).startswith("policy.yaml: ")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(InputError, match="not UTF-8 at byte 3"):
        yaml_files.read(path, "missing")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_a_value_or_one_clear_error(text):
    try:
        value = yaml_files.parse(text, "x")
    except InputError as error:
        assert str(error).startswith("x: not valid YAML")  # noqa: PT017 - a refusal is one of two right answers
    else:
        assert repr(value) == repr(yaml_files.parse(text, "x"))
