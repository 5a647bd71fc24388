import dataclasses
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from secpipeline.detection import settings
from secpipeline.errors import InputError
from secpipeline.robustness import objectives, policy
from secpipeline.robustness.config import load_suite
from secpipeline.robustness.policy import Policy, load_policy

POLICIES = Path(__file__).parents[2] / "policies"


def shipped(name="default.yaml"):
    return yaml.safe_load((POLICIES / name).read_text())


def test_the_shipped_policy_and_suite_fit_each_other():
    rules, suite = load_policy(POLICIES / "default.yaml"), load_suite(POLICIES / "attacks.yaml")
    for objective in rules.attacked.objectives:
        assert any(
            attack.objective == objective
            and attack.epsilon >= rules.attacked.min_epsilon
            and attack.steps >= rules.attacked.min_steps
            for attack in suite.attacks
        )
    assert set(rules.corrupted.corruptions) <= set(suite.corruptions)
    assert set(rules.corrupted.severities) <= set(suite.severities)
    assert set(policy.OBJECTIVES) == set(objectives.OBJECTIVES) - {"misplace"}
    assert set(policy.CONTROLS) <= set(suite.condition_names())


def test_the_strongest_attack_is_the_one_with_most_steps_on_the_detection_loss():
    assert load_suite(POLICIES / "attacks.yaml").strongest.name == "pgd"


def keys(values, prefix=()):
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from keys(value, (*prefix, key))


@pytest.mark.parametrize("path", list(keys(shipped())), ids=".".join)
def test_every_key_of_the_policy_is_needed_and_named_when_missing(tmp_path, path):
    values = shipped()
    section = values
    for key in path[:-1]:
        section = section[key]
    del section[path[-1]]
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=path[-1]) as refused:
        load_policy(file)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("clean", "ap50_floor"), 1.2, "ap50_floor 1.2"),
        (("clean", "ap50_floor"), "high", "clean.ap50_floor: 'high'"),
        (("clean", "ap50_floor"), True, "clean.ap50_floor"),
        (("clean", "ap50_floor"), float("nan"), "clean.ap50_floor"),
        (("clean", "ap50_floor"), "0.5", "clean.ap50_floor: '0.5'"),
        pytest.param(("clean", "ap50_floor"), 10**400, "clean.ap50_floor: 10+ must be a finite number", id="huge"),
        (("clean", "ap50_flour"), 0.5, "unknown key 'ap50_flour'"),
        (("attacked", "objectives"), [], "attacked.objectives"),
        (("attacked", "objectives"), ["vanish", "explode"], "explode"),
        (("attacked", "objectives"), "vanish", "attacked.objectives"),
        (("attacked", "controls"), ["silence"], "silence"),
        (("attacked", "min_steps"), 2.5, "attacked.min_steps"),
        (("attacked", "min_epsilon"), "4/0", "attacked.min_epsilon"),
        (("attacked", "fppi_ceiling"), -1.0, "fppi_ceiling"),
        (("corrupted", "severities"), [4], "severities"),
        (("sample", "min_images"), 0, "min_images"),
        (("sample", "subset"), "tall", "tall"),
        (("sample", "relative_margin"), -0.1, "relative_margin"),
        (("artifact", "max_unmatched"), -1, "differences"),
        (("health", "max_sanity_ap50"), 2.0, "max_sanity_ap50"),
        (("required_evidence",), ["rumours"], "rumours"),
        (("sample",), 5, "mapping"),
        (("require_source_attribution",), "no", "require_source_attribution"),
    ],
)
def test_a_wrong_value_in_the_policy_is_refused_and_named(tmp_path, path, value, message):
    values = shipped()
    section = values
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=message) as refused:
        load_policy(file)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "there twice"),
        ("clean: {ap50_floor: 0.1, ap50_floor: 0.9}\n", "there twice"),
        ("- a list\n", "mapping"),
        ("", "mapping"),
        ("name: [unclosed\n", "not valid YAML"),
        ("name: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_not_plain_yaml_with_unique_keys_is_refused(tmp_path, text, message):
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_policy(file)


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="not found"):
        load_policy(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(InputError, match="not valid YAML"):
        load_policy(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subset": "tall"}, "subset"),
        ({"corruptions": ["snow"]}, "snow"),
        ({"severities": [9]}, "severities"),
        ({"corruptions": ["fog", "fog"]}, "one name"),
        ({"resamples": 10}, "resamples"),
        ({"noise_epsilon": 0}, "noise_epsilon"),
        ({"health": {"images": 0, "sanity_epsilon": 0.1}}, "health.images"),
        ({"health": {"images": 4, "sanity_epsilon": 7}}, "sanity_epsilon"),
    ],
)
def test_a_wrong_value_in_the_suite_is_refused_and_named(tmp_path, change, message):
    file = tmp_path / "attacks.yaml"
    file.write_text(yaml.safe_dump({**shipped("attacks.yaml"), **change}))
    with pytest.raises(InputError, match=message):
        load_suite(file)


def test_a_suite_without_an_attack_on_the_detection_loss_is_refused(tmp_path):
    values = shipped("attacks.yaml")
    values["attacks"] = [attack for attack in values["attacks"] if attack["objective"] != "detection_loss"]
    file = tmp_path / "attacks.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match="detection_loss"):
        load_suite(file)


@dataclasses.dataclass(frozen=True)
class Sample:
    number: float
    flags: tuple[bool, ...]


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(json_like | st.fixed_dictionaries({"number": json_like, "flags": json_like}))
def test_any_content_is_either_read_exactly_or_refused_with_a_name(values):
    try:
        read = settings.build(Sample, values, "file.yaml")
    except InputError:
        with pytest.raises(InputError, match=r"\Afile\.yaml: "):
            settings.build(Sample, values, "file.yaml")
    else:
        number = values["number"]
        assert read.number == (float(Fraction(number)) if isinstance(number, str) else number)
        assert list(read.flags) == values["flags"]


@given(st.integers(0, 999), st.integers(1, 999))
def test_fractions_are_read_as_numbers(above, below):
    read = settings.build(Sample, {"number": f"{above}/{below}", "flags": [True]}, "file.yaml")
    assert read.number == above / below


@pytest.mark.parametrize(
    ("text", "value"), [("3e-3", 0.003), ("2.5E4", 25000.0), ("1e999", None), ("1.2.3e4", None), ("-4/255", None)]
)
def test_exponents_are_numbers_unless_they_are_none(text, value):
    if value is None:
        with pytest.raises(InputError, match=r"\Afile: key: .* must be a finite number"):
            settings.number(text, "file: key")
    else:
        assert settings.number(text, "file: key") == value


@dataclasses.dataclass(frozen=True)
class Inner:
    share: float = 0.5


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner


def test_defaults_may_be_left_out_only_where_that_is_said():
    values = {"name": "a", "inner": {}}
    with pytest.raises(InputError, match=r"\Afile\.yaml: inner: the key 'share' is missing"):
        settings.build(Outer, values, "file.yaml")
    assert settings.build(Outer, values, "file.yaml", defaults=True) == Outer("a", Inner(0.5))
    with pytest.raises(InputError, match="the key 'name' is missing"):
        settings.build(Outer, {"inner": {}}, "file.yaml", defaults=True)


def test_the_policy_is_frozen():
    rules = load_policy(POLICIES / "default.yaml")
    assert isinstance(rules, Policy)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rules.name = "mine"
