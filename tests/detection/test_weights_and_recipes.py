import datetime as dt
import json
import pickle
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from secpipeline.detection import weights
from secpipeline.detection.recipes import EarlyStopping, Recipe, load_recipe
from secpipeline.detection.registry import DETECTORS, build
from secpipeline.errors import InputError

SMALL = {"channels": [8, 16, 16]}
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def detector():
    return build("csp_tiny", SMALL, seed=0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "detector.safetensors"


@pytest.mark.parametrize("config", [SMALL, {}])
def test_weights_come_back_bit_for_bit(path, config):
    detector = build("csp_tiny", config, seed=1)
    with torch.no_grad():
        detector.centre.bias.copy_(torch.tensor([1e-42]))
        detector.scale.bias.copy_(torch.tensor([-0.0, 3.4e38]))
    weights.save(detector.train(), path)
    loaded = weights.load(path)
    assert (loaded.name, loaded.config) == ("csp_tiny", detector.config)
    assert not loaded.training
    found = loaded.state_dict()
    assert found.keys() == detector.state_dict().keys()
    for name, tensor in detector.state_dict().items():
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_equal_weights_are_equal_bytes_and_others_are_not(path):
    first, second, other = build("csp_tiny", SMALL, seed=2), build("csp_tiny", SMALL, seed=9), build("csp_tiny", SMALL)
    second.load_state_dict(first.state_dict())
    written = []
    for one in (first, second.to(memory_format=torch.contiguous_format)) * 6:
        weights.save(one, path)
        written.append(path.read_bytes())
    assert len(set(written)) == 1
    weights.save(other, path)
    assert path.read_bytes() != written[0]


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def torch_zip(trap, path):
    torch.save({"trap": trap}, path)


def torch_legacy(trap, path):
    torch.save({"trap": trap}, path, _use_new_zipfile_serialization=False)


def plain_pickle(protocol):
    return lambda trap, path: path.write_bytes(pickle.dumps(trap, protocol))


@pytest.mark.parametrize("write", [torch_zip, torch_legacy, *map(plain_pickle, range(2, 6))])
def test_a_pickle_is_refused_by_name_and_never_run(path, tmp_path, write):
    write(Trap(tmp_path / "it ran"), path)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: a pickle; only safetensors"):
        weights.load(path)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_pickle_of_an_old_protocol_is_refused_as_well(path, tmp_path, protocol):
    plain_pickle(protocol)(Trap(tmp_path / "it ran"), path)
    with pytest.raises(InputError, match=re.escape(str(path))):
        weights.load(path)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x08", b"not weights at all, but long enough for a header"])
def test_a_file_that_is_no_safetensors_is_refused_by_name(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: no safetensors"):
        weights.load(path)


def test_missing_and_cut_off_files_are_refused_by_name(path, detector):
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: no such file"):
        weights.load(path)
    weights.save(detector, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=re.escape(str(path))):
        weights.load(path)


def write(path, detector, change=lambda state: None, header=None):
    state = {name: tensor.clone().contiguous() for name, tensor in detector.state_dict().items()}
    change(state)
    safetensors.torch.save_file(state, path, {"detector": "csp_tiny", "config": json.dumps(SMALL), **(header or {})})


def lacking(state):
    del state["centre.bias"]


def unknown(state):
    state["centre.colour"] = torch.zeros(2)


def wrong_shape(state):
    state["centre.bias"] = torch.zeros(2)


def broadcastable(state):
    state["scale.bias"] = torch.zeros(1)


def spoiled(value):
    def change(state):
        next(tensor for name, tensor in state.items() if name.startswith("scale")).flatten()[-1] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lacking, "lacks tensor centre.bias"),
        (unknown, "holds an unknown tensor centre.colour"),
        (wrong_shape, "centre.bias has the wrong shape"),
        (broadcastable, "scale.bias has the wrong shape"),
        (spoiled(float("nan")), "scale.weight has .* not finite"),
        (spoiled(float("-inf")), "scale.weight has .* not finite"),
    ],
)
def test_tensors_that_are_not_just_those_of_the_detector_are_refused(path, detector, change, message):
    write(path, detector)
    weights.load(path)
    write(path, detector, change)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: .*{message}"):
        weights.load(path)


@pytest.mark.parametrize(
    "header",
    [
        {"detector": "yolo"},
        {"detector": ""},
        {"config": "not json"},
        {"config": "[]"},
        {"config": "5"},
        {"config": '"channels"'},
        {"config": "null"},
        {"config": '{"channels": [8, 16]}'},
        {"config": '{"channels": 8}'},
        {"config": '{"channels": [-8, 16, 16]}'},
        {"config": '{"channels": [8.5, 16, 16]}'},
        {"config": '{"channels": ["a", "b", "c"]}'},
    ],
)
def test_a_header_that_does_not_say_which_detector_it_is_is_refused_by_name(path, detector, header):
    write(path, detector, header=header)
    with pytest.raises(InputError, match=re.escape(str(path))):
        weights.load(path)


def test_a_file_without_a_header_is_refused_by_name(path, detector):
    safetensors.torch.save_file({name: t.contiguous() for name, t in detector.state_dict().items()}, path)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: its header"):
        weights.load(path)


@pytest.mark.parametrize("shipped", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_names_a_detector_that_exists(shipped):
    recipe = load_recipe(shipped)
    assert recipe.name == shipped.stem
    assert DETECTORS[recipe.detector].name == recipe.detector
    assert all(side % 16 == 0 for side in recipe.input_size)
    assert build(recipe.detector, dict(recipe.config), seed=recipe.seed).name == recipe.detector
    assert json.loads(json.dumps(recipe.to_json()))["epochs"] == recipe.epochs
    assert (recipe.adversarial is None) == (yaml.safe_load(shipped.read_text())["adversarial"] is None)


def test_recipes_are_shipped():
    assert {"standard", "adversarial", "judge", "fasterrcnn"} <= {path.stem for path in RECIPES}


BASE = {
    "detector": "csp_tiny",
    "config": {},
    "input_size": [144, 192],
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 0.003,
    "weight_decay": 0.0001,
    "seed": 1,
    "zoom": 1.1,
    "adversarial": None,
}
OPTIONS = {
    "schedule": "cosine",
    "precision": "bfloat16",
    "compile": True,
    "ema": 0.999,
    "clip_norm": 1,
    "early_stopping": {"metric": "robust", "patience": 3, "improvement": 0.01},
    "defences": {"cutmix": {"probability": 0.5}},
}
ATTACK = {"epsilon": "4/255", "step_size": "5/255", "steps": 1, "clean_epochs": 2}


def put(tmp_path, values):
    target = tmp_path / "mine.yaml"
    target.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return target


def test_numbers_may_be_fractions(tmp_path):
    values = {**BASE, "learning_rate": "1/400", "adversarial": ATTACK, "config": SMALL}
    recipe = load_recipe(put(tmp_path, values))
    assert recipe.learning_rate == 0.0025
    assert recipe.adversarial.epsilon == 4 / 255
    assert recipe.config == SMALL
    assert recipe.input_size == (144, 192)
    assert recipe.name == "mine"


@pytest.mark.parametrize("number", ["3e-3", "0.003", "3/1000"])
def test_numbers_may_be_written_in_any_common_way(tmp_path, number):
    text = yaml.safe_dump({**BASE, "learning_rate": "RATE"}).replace("RATE", number)
    assert load_recipe(put(tmp_path, text)).learning_rate == pytest.approx(0.003)


def test_options_are_read_and_may_be_left_out(tmp_path):
    recipe = load_recipe(put(tmp_path, {**BASE, **OPTIONS}))
    assert (recipe.schedule, recipe.precision, recipe.compile) == ("cosine", "bfloat16", True)
    assert (recipe.ema, recipe.clip_norm) == (0.999, 1.0)
    assert recipe.early_stopping == EarlyStopping("robust", 3, 0.01)
    assert recipe.defences == OPTIONS["defences"]
    assert json.loads(json.dumps(recipe.to_json()))["early_stopping"]["patience"] == 3
    plain = load_recipe(put(tmp_path, BASE))
    assert (plain.schedule, plain.precision, plain.compile, plain.clip_norm) == ("onecycle", "auto", False, 5.0)
    assert (plain.ema, plain.early_stopping, plain.defences) == (None, None, {})
    nothing = {**BASE, "ema": None, "early_stopping": None, "defences": {}}
    assert load_recipe(put(tmp_path, nothing)) == plain
    brief = {**BASE, "early_stopping": {"metric": "clean", "patience": 1}}
    assert load_recipe(put(tmp_path, brief)).early_stopping == EarlyStopping("clean", 1, 0.0)


def stopping(**changes):
    return {"early_stopping": {**OPTIONS["early_stopping"], **changes}}


def nested(**changes):
    return {"adversarial": {**ATTACK, **changes}}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"detector": 5}, "detector"),
        ({"detector": None}, "detector"),
        ({"detector": ["csp_tiny"]}, "detector"),
        ({"config": None}, "config"),
        ({"config": 5}, "config"),
        ({"config": "channels"}, "config"),
        ({"config": [24, 48, 96]}, "config"),
        ({"config": {5: 6}}, "config"),
        ({"config": {"channels": [24, float("nan"), 96]}}, "config"),
        ({"config": {"since": dt.date(2026, 1, 1)}}, "config"),
        ({"input_size": 144}, "input_size"),
        ({"input_size": [144]}, "input_size"),
        ({"input_size": [144, 192, 3]}, "input_size"),
        ({"input_size": [144, 200]}, "input_size"),
        ({"input_size": [0, 16]}, "input_size"),
        ({"input_size": [-16, 16]}, "input_size"),
        ({"input_size": [144.0, 192.0]}, "input_size"),
        ({"input_size": [True, 16]}, "input_size"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": 2.5}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"epochs": "3"}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": None}, "batch_size"),
        ({"zoom": 0.9}, "zoom"),
        ({"zoom": 9}, "zoom"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"learning_rate": "1/0"}, "learning_rate"),
        ({"learning_rate": True}, "learning_rate"),
        ({"learning_rate": None}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"learning_rate": 10**400}, "learning_rate"),
        ({"learning_rate": [0.1]}, "learning_rate"),
        ({"learning_rate": "1e999999999"}, "learning_rate"),
        ({"learning_rate": "1e-9999999/3"}, "learning_rate"),
        ({"weight_decay": "1/255/2"}, "weight_decay"),
        ({"weight_decay": ""}, "weight_decay"),
        ({"adversarial": 5}, "adversarial"),
        ({"adversarial": []}, "adversarial"),
        ({"adversarial": {}}, "epsilon"),
        (nested(steps=0), "steps"),
        (nested(steps="1"), "steps"),
        (nested(clean_epochs=-1), "clean_epochs"),
        (nested(epsilon="-4/255"), "epsilon"),
        (nested(epsilon={}), "epsilon"),
        (nested(step_size=None), "step_size"),
        (nested(colour=1), "colour"),
        ({"schedule": "linear"}, "schedule"),
        ({"schedule": None}, "schedule"),
        ({"schedule": ["cosine"]}, "schedule"),
        ({"precision": "float16"}, "precision"),
        ({"precision": 32}, "precision"),
        ({"compile": 1}, "compile"),
        ({"compile": None}, "compile"),
        ({"ema": 1}, "ema"),
        ({"ema": -0.1}, "ema"),
        ({"ema": True}, "ema"),
        ({"ema": "slow"}, "ema"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"clip_norm": None}, "clip_norm"),
        ({"clip_norm": -1}, "clip_norm"),
        ({"early_stopping": True}, "early_stopping"),
        ({"early_stopping": {}}, "metric"),
        (stopping(metric="loss"), "metric"),
        (stopping(patience=0), "patience"),
        (stopping(patience=1.5), "patience"),
        (stopping(improvement=2), "improvement"),
        (stopping(improvement=None), "improvement"),
        (stopping(colour=1), "colour"),
        ({"defences": None}, "defences"),
        ({"defences": []}, "defences"),
        ({"defences": {"magic": {}}}, "magic"),
        ({"defences": {5: 6}}, "defences"),
        ({"defences": {"cutmix": {"probability": float("nan")}}}, "defences"),
        ({"name": "standard"}, "name"),
        ({"epoch": 3}, "epoch"),
        ({5: 3}, "5"),
    ],
)
def test_a_bad_key_or_value_is_one_clear_error(tmp_path, change, key):
    target = put(tmp_path, {**BASE, **change})
    with pytest.raises(InputError) as raised:
        load_recipe(target)
    assert str(raised.value).startswith(f"{target}: ")
    assert key in str(raised.value).removeprefix(str(target))


@pytest.mark.parametrize("key", sorted(BASE))
def test_each_missing_key_is_named(tmp_path, key):
    with pytest.raises(InputError, match=f"mine.yaml: the key '{key}' is missing"):
        load_recipe(put(tmp_path, {name: value for name, value in BASE.items() if name != key}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "5",
        "a: [",
        "\t",
        "{a: 1}: 2",
        "a: &a [*a]",
        "!!python/object/apply:os.getcwd []",
        "when: 2026-13-45",
        "\x00",
        "[" * 3000,
    ],
)
def test_a_file_that_is_no_recipe_at_all_is_refused_by_name(tmp_path, text):
    with pytest.raises(InputError, match=r"mine\.yaml: "):
        load_recipe(put(tmp_path, text))


def test_a_file_that_is_not_utf_8_is_refused_by_name(tmp_path):
    target = tmp_path / "mine.yaml"
    target.write_bytes("detector: straße".encode("latin-1"))
    with pytest.raises(InputError, match=r"mine\.yaml: .*UTF-8"):
        load_recipe(target)


def test_a_missing_recipe_names_those_that_are_there(tmp_path):
    put(tmp_path, BASE)
    with pytest.raises(InputError, match=r"other\.yaml: no such recipe; there are mine"):
        load_recipe(tmp_path / "other.yaml")


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.dates()
    | st.binary(max_size=6)
    | st.sampled_from(["1/3", "4/255", "-1/2", "1e5", "nan", "inf", "csp_tiny", 16, 144, 10**400])
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=8,
)


def assert_accepted_or_refused(target):
    try:
        recipe = load_recipe(target)
    except InputError as error:
        assert str(error).startswith(f"{target}: ")  # noqa: PT017 - a refusal is one of two right answers
    else:
        assert isinstance(recipe, Recipe)
        json.dumps(recipe.to_json(), allow_nan=False)


@settings(max_examples=250, deadline=None)
@given(st.dictionaries(st.sampled_from([*BASE, *OPTIONS, *ATTACK, "name"]), anything, max_size=2), st.booleans())
def test_any_value_of_any_key_is_a_recipe_or_one_clear_error(tmp_path_factory, changes, inside):
    directory = tmp_path_factory.getbasetemp()
    values = {**BASE, **({"adversarial": {**ATTACK, **changes}} if inside else changes)}
    assert_accepted_or_refused(put(directory, values))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | anything.map(yaml.safe_dump))
@example("2026-02-30")
@example("a: 2026-02-30T25:00:00")
@example("? !!binary x\n: y")
@example("a: !!float x")
@example("a: !!int x")
def test_any_text_is_a_recipe_or_one_clear_error(tmp_path_factory, text):
    assert_accepted_or_refused(put(tmp_path_factory.getbasetemp(), text))
