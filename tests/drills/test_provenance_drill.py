"""The drill: every tampering is refused by its own code, and the drill itself can fail."""

import json
import time

import pytest
from attackers import GROUPS, Group, attempt, provenance

from secpipeline.errors import InputError
from secpipeline.provenance.keys import LOG
from secpipeline.provenance.report import REASONS, Refusal, Report
from secpipeline.provenance.verification import _Verifier

EVERY = [(group, tampering) for group in GROUPS for tampering in group.tamperings]
# One in eight at every run of the tests, all of them with the slow ones.
SHARED = [pytest.param(*one, marks=[] if number % 8 == 0 else pytest.mark.slow) for number, one in enumerate(EVERY)]
ACCEPTS = Report((), ("ingest",), 1)
REFUSES = Report((Refusal("stale", "ingest", "", "always"),), ("ingest",), 1)


@pytest.mark.parametrize(
    ("group", "tampering"), SHARED, ids=lambda value: getattr(value, "name", getattr(value, "title", ""))
)
def test_every_tampering_is_refused_by_its_own_code(prepared, group, tampering):
    result = attempt(prepared(group), group, tampering)
    assert result.refused, f"{result.text()}\n{result.found}"
    assert set(result.found) <= REASONS.keys()


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.title)
def test_the_untouched_chain_verifies(prepared, group):
    report = group.verify(prepared(group), None)
    assert report.ok, report.text()
    assert len(report.steps) >= 10
    assert report.files > 0


def test_every_tampering_says_what_it_does_in_one_sentence():
    sentences = [tampering.sentence for _, tampering in EVERY]
    assert len(EVERY) >= 60
    assert len({tampering.name for _, tampering in EVERY}) == len(set(sentences)) == len(EVERY)
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in sentences)


def test_every_reason_code_is_drilled():
    assert {tampering.expected for _, tampering in EVERY} == REASONS.keys()


def no_change(chain):
    """Nothing is done."""


def group_of(verify, *codes, tamper=no_change):
    group = Group("a test", verify)
    for code in codes:
        group.add(f"refused as {code}", "Nothing is done.", code, tamper)
    return group


def test_what_is_accepted_fails_the_drill(tmp_path):
    outcome = provenance.run(tmp_path, [group_of(lambda chain, expect: ACCEPTS, "stale")])
    assert not outcome.ok
    assert outcome.text().splitlines()[-2].endswith("FAILED: accepted")
    assert outcome.text().endswith("0 of 1 refused; untouched chain verified before and after")


def test_a_verifier_that_refuses_everything_fails_the_drill(tmp_path):
    outcome = provenance.run(tmp_path, [group_of(lambda chain, expect: REFUSES, "stale")])
    assert [result.refused for result in outcome.results] == [True]
    assert len(outcome.untouched) == 2
    assert not outcome.ok
    assert outcome.text().endswith("1 of 1 refused; untouched chain NOT verified")


def test_a_refusal_for_another_reason_fails_the_drill(built):
    group = group_of(lambda chain, expect: REFUSES, "clock", "stale")
    wrong, right = (attempt(built, group, tampering) for tampering in group.tamperings)
    assert not wrong.refused
    assert "refused as stale" in wrong.text()
    assert right.refused


def test_an_exception_out_of_the_verifier_is_a_failure_with_its_name(built):
    def crash(chain, expect):
        raise RecursionError("too deep")

    result = attempt(built, group := group_of(crash, "stale"), group.tamperings[0])
    assert not result.refused
    assert "RecursionError: too deep" in result.text()


def test_a_tampering_that_breaks_is_a_failure_and_no_refusal(built):
    def broken(chain):
        """It cannot be done."""
        raise InputError("nothing there")

    result = attempt(built, group := group_of(lambda c, e: REFUSES, "stale", tamper=broken), group.tamperings[0])
    assert not result.refused
    assert "InputError" in result.text()


def test_a_verifier_that_hangs_is_a_failure(built, monkeypatch):
    def hang(chain, expect):
        try:
            time.sleep(60)
        except Exception:
            return REFUSES
        return REFUSES

    monkeypatch.setattr(provenance, "_PATIENCE", 1)
    result = attempt(built, group := group_of(hang, "stale"), group.tamperings[0])
    assert not result.refused
    assert "no end" in result.text()


def test_a_verifier_that_believes_every_signed_log_fails_the_drill(monkeypatch):
    logs = next(group for group in GROUPS if group.title.startswith("the log"))
    monkeypatch.setattr(provenance, "GROUPS", (logs,))
    monkeypatch.setattr(
        _Verifier, "_log", lambda verifier, own, said: verifier.store.read_log(said.keys(LOG), said.log)
    )
    printed = []
    assert provenance.main(out=printed.append, progress=False) == 4
    (text,) = printed
    missed = [line.strip() for line in text.splitlines() if line.endswith("FAILED: accepted")]
    assert {line.partition("  ")[0] for line in missed} >= {"log forked", "whole evidence put back", "clock set back"}
    assert f"{len(logs.tamperings)} of {len(logs.tamperings)} refused" not in text


def test_a_verifier_that_does_not_read_the_files_fails_the_drill(tmp_path, monkeypatch):
    monkeypatch.setattr(_Verifier, "_check_files", lambda *arguments: None)
    files = next(group for group in GROUPS if group.title == "the files")
    outcome = provenance.run(tmp_path, [files])
    assert not outcome.ok
    assert not any(result.refused for result in outcome.results if result.name.startswith("weights"))


def test_the_records_are_for_tools(monkeypatch):
    monkeypatch.setattr(provenance, "GROUPS", (group_of(lambda chain, expect: REFUSES, "stale", "clock"),))
    printed = []
    assert provenance.main(out=printed.append, progress=False, as_json=True) == 4
    first, second = json.loads(printed[0])
    assert first == {
        "group": "a test",
        "name": "refused as stale",
        "sentence": "Nothing is done.",
        "expected": "stale",
        "found": ["stale"],
        "problem": "",
        "refused": True,
    }
    assert second["refused"] is False


def test_the_users_keys_and_workspace_are_not_touched(tmp_path, monkeypatch):
    project, keys, home = (tmp_path / name for name in ("project", "keys", "home"))
    for place in (project, home):
        (place / "build/evidence").mkdir(parents=True)
        (place / "build/evidence/log.jsonl").write_text("the user's\n")
        (place / "params.yaml").write_text("{}\n")
    monkeypatch.chdir(project)
    for name, place in {
        "SECPIPELINE_KEYS": keys,
        "SECPIPELINE_HOME": home,
        "HOME": home,
        "XDG_DATA_HOME": home,
    }.items():
        monkeypatch.setenv(name, str(place))
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    channel = next(group for group in GROUPS if group.title == "a channel")
    monkeypatch.setattr(provenance, "GROUPS", (Group("one", channel.verify, channel.prepare, channel.tamperings[:2]),))
    assert provenance.main(out=lambda text: None) == 0
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert not keys.exists()


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    files = next(group for group in GROUPS if group.title == "the files")
    deep = [tampering for tampering in files.tamperings if tampering.name == "file hidden deep"]
    monkeypatch.setattr(provenance, "GROUPS", (Group("one", files.verify, files.prepare, deep),))
    monkeypatch.setattr(provenance, "scratch_place", lambda: str(tmp_path))
    assert provenance.main(out=lambda text: None) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_whole_drill_passes_and_says_so():
    printed = []
    started = time.monotonic()
    assert provenance.main(out=printed.append) == 0
    assert time.monotonic() - started < 60
    assert (
        printed[0].splitlines()[-1]
        == f"{len(EVERY)} of {len(EVERY)} refused; untouched chain verified before and after"
    )
