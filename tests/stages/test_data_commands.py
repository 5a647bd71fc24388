"""`secpipeline review` and `secpipeline release diff`, as they are typed."""

import json

import pytest

from secpipeline import runner
from secpipeline.cli import main
from secpipeline.errors import IntegrityError
from secpipeline.review import app
from secpipeline.stages import curate
from secpipeline.stages.table import REVIEW


@pytest.fixture
def type_(chain):
    def typed(*arguments):
        return main(["--project", str(chain.root), "--home", str(chain.home), *arguments])

    return typed


@pytest.fixture
def reviewer(monkeypatch):
    """Somebody who accepts every label, up to a number of answers."""

    def answers(most):
        def serve(session, port, announce):
            announce(f"http://127.0.0.1:{port}/")
            while not session.finished and session.view()["done"] < most:
                session.decide(session.view()["item"]["id"], "accept-label")
            return session.finished

        monkeypatch.setattr(app, "serve", serve)

    return answers


def test_a_review_is_signed_gone_on_with_and_read_by_the_next_curation(chain, type_, reviewer, capsys):
    reviewer(3)
    assert type_("review", "--reviewer", "reviewer one", "--items", "40", "--seed", "5") == 0
    assert "not everything is answered" in capsys.readouterr().out
    reviewer(100)
    assert type_("review", "--reviewer", "reviewer two") == 0
    assert "not everything is answered" not in capsys.readouterr().out

    outcome = runner.run(chain, "curate")

    assert not outcome.reused
    assert outcome.summary["reviewers"] == ["reviewer one", "reviewer two"]
    review = json.loads((chain.store.artifacts / "curate/review.json").read_bytes())
    assert review["decided"] > 3
    assert runner.verify(chain, ("ingest", "validate", "audit_labels", "curate")).ok


def test_nobody_reviews_what_does_not_verify(chain, type_, reviewer, capsys):
    reviewer(100)
    findings = chain.store.artifacts / "audit_labels/findings.parquet"
    data = findings.read_bytes()
    findings.unlink()
    findings.write_bytes(data + b"x")

    assert type_("review", "--reviewer", "reviewer one") == 4
    assert "[changed-file]" in capsys.readouterr().err
    assert not (chain.home / "review").exists()


def test_a_release_is_compared_with_another(chain, type_, capsys):
    release = str(chain.store.artifacts / "ingest")
    assert type_("release", "diff", release, release) == 0
    assert "hold the same images and boxes" in capsys.readouterr().out
    assert type_("release", "diff", release, str(chain.root)) == 2
    assert "images.parquet" in capsys.readouterr().err


def test_a_review_that_changes_while_the_stage_runs_is_not_applied(chain, type_, reviewer, monkeypatch):
    reviewer(100)
    assert type_("review", "--reviewer", "reviewer one", "--items", "40", "--seed", "5") == 0
    read = curate.ReviewData.read

    def rewriting(*arguments, **options):
        path = chain.home / REVIEW[0]
        path.write_bytes(path.read_bytes() + b"\n")
        return read(*arguments, **options)

    monkeypatch.setattr(curate.ReviewData, "read", rewriting)
    with pytest.raises(IntegrityError, match="it changed while the stage ran"):
        runner.run(chain, "curate")
