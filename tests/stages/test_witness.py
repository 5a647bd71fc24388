"""The gate is computed twice, and signed by two roles that found the same; a missing half is added later."""

import importlib
import shutil

import pytest

from secpipeline import runner
from secpipeline.errors import AttestationError
from secpipeline.provenance import envelopes
from secpipeline.stages.table import BY_NAME

GATE = importlib.import_module("secpipeline.stages.gate")


@pytest.fixture
def changed(chain):
    """A workspace whose policy is written in other words, so that the gate must be computed anew."""
    path = chain.root / "policies/default.yaml"
    path.write_text(path.read_text() + "\n# the same policy\n")
    return chain


class Computed:
    """Counts the computations of the gate, and changes what one of them leaves behind."""

    def __init__(self, original):
        self.original, self.times, self.changes = original, 0, {}

    def __call__(self, context):
        self.times += 1
        result = self.original(context)
        self.changes.get(self.times, lambda out: None)(context.out)
        return result


@pytest.fixture
def computed(monkeypatch):
    counting = Computed(GATE.run)
    monkeypatch.setattr(GATE, "run", counting)
    return counting


def private(workspace, role):
    return workspace.keys / f"private/{role}.pem"


def codes(workspace):
    return set(runner.verify(workspace).codes)


def links(workspace):
    return workspace.evidence.current("gate").links


def signers(workspace):
    return [envelopes.parse_object(link)["signatures"][0]["keyid"] for link in links(workspace)]


def test_both_roles_sign_what_both_found(changed, computed):
    outcome = runner.run(changed, "gate")
    assert computed.times == 2
    assert not outcome.reused
    ring = changed.ring()
    assert signers(changed) == [ring.public("red-team").keyid, ring.public("safety").keyid]
    first, second = (envelopes.read_unverified(link) for link in links(changed))
    assert (first["materials"], first["products"]) == (second["materials"], second["products"])
    assert not runner.verify(changed, ("ingest", "validate", "audit_labels", "curate", "train", "export", "attack",
                                       "gate")).refusals  # fmt: skip


def test_without_the_witness_the_gate_is_half_signed_and_nothing_goes_on(changed, computed, tmp_path):
    shutil.move(private(changed, "safety"), tmp_path / "away.pem")
    runner.run(changed, "gate")
    assert computed.times == 1
    assert signers(changed) == [changed.ring().public("red-team").keyid]
    assert "threshold" in codes(changed)
    with pytest.raises(AttestationError, match="threshold"):
        runner.run(changed, "release")
    assert runner.run(changed, "gate").reused
    assert computed.times == 1


def test_the_witness_completes_a_half_signed_gate_without_the_first_half_again(changed, computed, tmp_path):
    shutil.move(private(changed, "safety"), tmp_path / "away.pem")
    runner.run(changed, "gate")
    half = changed.evidence.current("gate")
    shutil.move(tmp_path / "away.pem", private(changed, "safety"))
    shutil.move(private(changed, "red-team"), tmp_path / "away.pem")
    outcome = runner.run(changed, "gate")
    assert computed.times == 2
    assert outcome.reused
    whole = changed.evidence.current("gate")
    assert (whole.statement, whole.links[0]) == (half.statement, half.links[0])
    assert signers(changed) == [changed.ring().public("red-team").keyid, changed.ring().public("safety").keyid]
    shutil.move(tmp_path / "away.pem", private(changed, "red-team"))
    for name in ("release", "deploy", "monitor"):
        runner.run(changed, name)
    assert not codes(changed)
    assert runner.run(changed, "gate").reused
    assert computed.times == 2


def edit(out):
    path = out / "verdict.json"
    path.write_bytes(path.read_bytes().replace(b'"verdict"', b'"verdicT"'))


def add(out):
    (out / "seed.txt").write_text("7")


def remove(out):
    next(path for path in sorted(out.iterdir()) if path.is_file()).unlink()


@pytest.mark.parametrize(("change", "named"), [(edit, "gate/verdict.json"), (add, "gate/seed.txt"), (remove, "gate/")])
def test_a_gate_that_does_not_find_the_same_twice_is_refused_and_stays_half_signed(changed, computed, change, named):
    computed.changes[2] = change
    with pytest.raises(AttestationError, match=named) as raised:
        runner.run(changed, "gate")
    assert raised.value.code == "runs-disagree"
    assert codes(changed) >= {"threshold"}
    assert len(links(changed)) == 1
    assert not list((changed.home / "scratch").iterdir())
    runner.run(changed, "gate")
    assert computed.times == 3
    assert len(links(changed)) == 2
    assert "threshold" not in codes(changed)


def test_a_gate_that_is_wrong_the_first_time_is_not_countersigned_however_often_it_is_run(changed, computed):
    computed.changes[1] = edit
    for _ in range(3):
        with pytest.raises(AttestationError) as raised:
            runner.run(changed, "gate")
        assert raised.value.code == "runs-disagree"
    assert computed.times == 4
    assert codes(changed) >= {"threshold"}


def test_killed_between_its_two_runs_the_gate_is_finished_by_the_next(changed, computed, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_witness", die)
        with pytest.raises(Killed):
            runner.run(changed, "gate")
    assert computed.times == 1
    assert runner.run(changed, "gate").reused
    assert computed.times == 2
    assert len(links(changed)) == 2


def test_a_witness_with_another_roles_key_signs_nothing(changed, computed):
    shutil.copy2(private(changed, "red-team"), private(changed, "safety"))
    with pytest.raises(AttestationError) as raised:
        runner.run(changed, "gate")
    assert raised.value.code == "key-mismatch"
    assert codes(changed) >= {"threshold"}


def test_only_the_gate_asks_for_two_runs_and_by_two_keys():
    assert [stage.name for stage in BY_NAME.values() if stage.witness] == ["gate"]
    assert BY_NAME["gate"].witness not in {stage.role for stage in BY_NAME.values()}
