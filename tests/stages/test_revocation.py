"""A revocation reaches everything that rests on the revoked thing, and nothing else."""

import json

import pytest

from secpipeline import audit, revocation, runner
from secpipeline.cli import main
from secpipeline.deployment.serving import create_app
from secpipeline.errors import AttestationError, InputError, SecpipelineError
from secpipeline.provenance.trust import Revocation
from secpipeline.stages import deploy
from secpipeline.stages.table import STAGES
from secpipeline.workspace import step_specs

TIME = "2026-11-24T10:00:00Z"


def wanted(kind, name):
    return Revocation(kind, name, "sold to us twice", TIME)


def digest(workspace, name):
    stage, _, file = name.partition("/")
    return workspace.evidence.current(stage).files(stage)[file]


def serve(workspace):
    directory, memory = workspace.channels / "production", deploy.memory(workspace, "production")
    return create_app(directory, workspace.ring().owners(), step_specs(), memory)


def command(workspace, *arguments):
    return main(["--project", str(workspace.root), *arguments])


def refused(workspace):
    return {refusal.code for refusal in audit.verify_everything(workspace).chain.refusals}


def test_a_revoked_source_stops_serving_verification_and_every_later_stage(deployment, capsys):
    serve(deployment)
    assert command(deployment, "revoke", "source", "vendor-c", "--reason", "sold to us twice") == 0
    said = capsys.readouterr().out
    assert "channels that will refuse to serve: production" in said
    assert "retrain" in said
    with pytest.raises(SecpipelineError, match="vendor-c was revoked"):
        serve(deployment)
    verification = audit.verify_everything(deployment)
    assert "revoked" in verification.chain.codes
    assert "revoked" in verification.channels["production"].codes
    with pytest.raises(AttestationError, match=r"revoked.*vendor-c"):
        runner.run(deployment, "train")


def test_ingest_leaves_a_revoked_source_out_and_names_why_its_evidence_changed(deployment):
    before = runner.run(deployment, "ingest")
    assert before.reused
    assert "sources/vendor-c.sha256" in before.files
    revocation.revoke(deployment, wanted("source", "vendor-c"))
    after = runner.run(deployment, "ingest")
    assert not after.reused
    assert "sources/vendor-c.sha256" not in after.files
    assert after.summary["sources"] == before.summary["sources"] - 1
    assert runner.verify(deployment, ("ingest",)).ok
    assert runner.run(deployment, "validate").refusal == ()


@pytest.mark.slow
def test_retraining_makes_a_chain_without_the_source(deployment):
    revocation.revoke(deployment, wanted("source", "vendor-c"))
    assert command(deployment, "retrain") == 0
    assert refused(deployment) == set()
    assert "sources/vendor-c.sha256" not in deployment.evidence.current("ingest").files("ingest")
    serve(deployment)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("release", "ingest/dataset.sha256"), ("detector", "export/detector.onnx"), ("file", "attack/report.json")],
)
def test_a_release_a_detector_or_a_file_is_revoked_by_its_digest(deployment, kind, name):
    revocation.revoke(deployment, wanted(kind, digest(deployment, name)))
    assert "revoked" in refused(deployment)
    with pytest.raises(SecpipelineError, match="revoked"):
        serve(deployment)
    stage = name.partition("/")[0]
    with pytest.raises(AttestationError, match=rf"revoked.*{stage}"):
        runner.run(deployment, stage)


def test_something_never_used_here_can_be_revoked_and_reaches_nothing(deployment):
    for thing in (wanted("source", "vendor-z"), wanted("file", "0" * 64)):
        assert revocation.reach(deployment, thing).runs == ()
        revocation.revoke(deployment, thing)
    assert audit.verify_everything(deployment).ok
    serve(deployment)


def test_the_reach_is_listed_before_anything_happens(deployment, capsys):
    assert command(deployment, "revoke", "source", "vendor-a", "--reason", "x", "--dry-run") == 0
    said = capsys.readouterr().out
    assert all(stage.name in said for stage in STAGES)
    assert "nothing was revoked" in said
    assert audit.verify_everything(deployment).ok


def test_taking_the_revocation_back_by_restoring_old_documents_is_noticed(deployment):
    old = {path: path.read_bytes() for path in (deployment.evidence.layout, deployment.evidence.trust)}
    log = {path: path.read_bytes() for path in (deployment.evidence.log.path, deployment.evidence.log.checkpoint_path)}
    revocation.revoke(deployment, wanted("source", "vendor-c"))
    assert "revoked" in refused(deployment)
    for path, data in old.items():
        path.write_bytes(data)
    assert refused(deployment) == {"layout-superseded"} | ({"not-logged"} & refused(deployment))
    for path, data in log.items():
        path.write_bytes(data)
    assert refused(deployment) & {"log-rewound", "trust-rewound"}


def test_the_same_thing_is_not_revoked_twice(deployment):
    revocation.revoke(deployment, wanted("source", "vendor-c"))
    with pytest.raises(InputError, match="already"):
        revocation.revoke(deployment, wanted("source", "vendor-c"))


@pytest.mark.parametrize(
    ("kind", "name", "reason"), [("file", "abc", "x"), ("source", " ", "x"), ("source", "vendor-a", " ")]
)
def test_a_revocation_that_says_too_little_is_one_clear_error(chain, capsys, kind, name, reason):
    before = chain.evidence.trust.read_bytes()
    assert command(chain, "revoke", kind, name, "--reason", reason) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert chain.evidence.trust.read_bytes() == before


def test_verify_names_the_remedy_in_json(deployment, capsys):
    revocation.revoke(deployment, wanted("source", "vendor-c"))
    assert command(deployment, "verify", "--json") == 4
    report = json.loads(capsys.readouterr().out)
    assert {refusal["code"] for refusal in report["chain"]["refusals"]} == {"revoked"}
    assert all(refusal["remedy"] for refusal in report["chain"]["refusals"])
