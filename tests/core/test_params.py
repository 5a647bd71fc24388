import pytest

from secpipeline import params
from secpipeline.errors import InputError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("train: {recipe: standard, max_fppi: 0.3}\ndata: {poison: null}\n")
    return path


def test_overrides_replace_and_the_file_stays(file):
    before = file.read_bytes()
    loaded = params.load(file, {"train.recipe": "adversarial"})
    assert params.select(loaded, ("train",)) == {"train": {"recipe": "adversarial", "max_fppi": 0.3}}
    assert file.read_bytes() == before


@pytest.mark.parametrize("key", ["train.recipee", "trian.recipe", "train.recipe.name", "new"])
def test_an_override_of_an_unknown_key_is_refused_by_name(file, key):
    with pytest.raises(InputError, match=key.split(".")[0]):
        params.load(file, {key: 1})


def test_a_missing_key_names_itself(file):
    with pytest.raises(InputError, match="audit"):
        params.select(params.load(file), ("audit",))


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", ""])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"params\.yaml"):
        params.load(path)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="--project"):
        params.load(tmp_path / "params.yaml")
