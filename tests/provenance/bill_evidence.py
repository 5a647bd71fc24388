"""Made-up evidence of one deployment, as a verifier hands it over, for tests of its bill of materials."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.provenance.bill_of_materials.chain import covered
from secpipeline.provenance.bill_of_materials.facts import read

INPUTS = {
    "ingest": (),
    "validate": ("ingest",),
    "audit_labels": ("ingest",),
    "curate": ("ingest", "validate", "audit_labels"),
    "train": ("ingest", "curate"),
    "export": ("ingest", "curate", "train"),
    "attack": ("ingest", "curate", "train", "export"),
    "gate": ("validate", "audit_labels", "curate", "train", "export", "attack"),
    "release": ("export", "gate"),
    "deploy": ("export", "gate", "release"),
    "monitor": ("deploy",),
}
VERSIONS = {"python": "3.11.7", "torch": "2.14.1+cpu", "scikit_learn": "1.7.0", "accelerator": "cpu"}
CLEAN = {"value": 0.8125, "low": 0.75, "high": 0.875}
ATTACKED = {"value": 0.1 + 0.2, "low": 0.25, "high": 0.4}


def condition(kind, measured, **facts):
    return {"kind": kind, **facts, "ap50": measured, "mr2": None, "miss_rate": measured, "fppi": {"value": 2}}


REPORT = {
    **{"images": 160, "people": 439, "subset": "visible", "threshold": 0.39, "corrupted_mean_ap50": None},
    "conditions": {
        "clean": condition("clean", CLEAN),
        "pgd": condition("attack", ATTACKED, objective="detection_loss", epsilon=4 / 255, steps=10),
        "fog-3": condition("corruption", {"value": 0.046, "low": 0.03, "high": 0.07}),
    },
    "black_box": {"conditions": {"pgd": condition("attack", CLEAN)}, "corrupted_mean_ap50": CLEAN},
}
CARD = {"name": "csp_tiny", "recipe": "adversarial", "input_size": [144, 192], "threshold": 0.39, "nms_iou": 0.5}
CONTENT = {
    "ingest": {
        "dataset.sha256": "…",
        "images.parquet": "images",
        "summary.json": {"images": 2400, "boxes": 10351, "pictures": ["preview.png"]},
    },
    "validate": {"report.json": {}},
    "audit_labels": {"report.json": {}, "sources.json": {"rows": [{"source": "b"}, {"source": "a"}, {"source": "b"}]}},
    "curate": {"dataset.sha256": "……", "summary.json": {"images": 2086, "held sources": ["vendor-c", "vendor-d"]}},
    "train": {"detector.safetensors": "weights", "summary.json": {"parameters": 193557}},
    "export": {"detector.onnx": "graph", "detector.json": CARD},
    "attack": {"report.json": REPORT},
    "gate": {"verdict.json": {"verdict": "pass"}},
    "release": {"release.json": {}},
    "deploy": {
        "detector.onnx": "graph",
        "detector.json": CARD,
        "deployment.json": {"outcome": "deployed", "channel": "production"},
    },
    "monitor": {"report.json": {}},
}


def predicate(stage, sources):
    entries = [{"name": name, "digest": {"sha256": digest}} for name, digest in sources.items()]
    if stage in ("validate", "gate"):
        return {"result": "PASSED", "configuration": entries}
    if stage == "release":
        return {"timeVerified": "2026-11-24T07:25:34Z"}
    if stage in ("attack", "audit_labels"):
        return {"configuration": entries, "startedOn": "2026-11-24T07:00:00Z", "finishedOn": "2026-11-24T07:01:00Z"}
    commit = {"name": "source", "digest": {"gitCommit": "ab" * 20}, "annotations": {"secpipeline_dirty": False}}
    times = {"startedOn": "2026-11-24T07:25:30Z", "finishedOn": "2026-11-24T07:25:34Z"}
    return {
        "buildDefinition": {
            "externalParameters": {"data": {"dataset": "synthetic"}, "python": "9", "torch": "9"},
            "internalParameters": {"environment": VERSIONS if stage == "train" else {}},
            "resolvedDependencies": [*entries, commit],
        },
        "runDetails": {"builder": {"version": {"python": "3.11.7"}}, "metadata": times},
    }


@dataclass(frozen=True)
class Evidence:
    """What a verifier hands over: payloads and digests by stage, and the artifacts."""

    statements: dict
    digests: dict
    links: dict
    artifacts: Path

    def read(self):
        return read(self.statements, self.digests, self.links, self.artifacts)

    def covered(self):
        return covered(self.statements, self.digests, self.links)

    def write(self, name, content):
        """Change a file and everything that is signed about it, here and where it is read."""
        data = content.encode() if isinstance(content, str) else canonical_json(content)
        (self.artifacts / name).write_bytes(data)
        digest = {"sha256": sha256_bytes(data)}
        for statement in self.statements.values():
            for entry in statement["subject"]:
                if entry["name"] == name:
                    entry["digest"] = digest
        for link in self.links.values():
            for part in (link["materials"], link["products"]):
                part.update({name: digest} if name in part else {})


def make(artifacts):
    made, statements, digests, links = {}, {}, {}, {}
    for stage, files in CONTENT.items():
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else canonical_json(content)
            (artifacts / stage).mkdir(parents=True, exist_ok=True)
            (artifacts / stage / name).write_bytes(data)
            made.setdefault(stage, {})[f"{stage}/{name}"] = {"sha256": sha256_bytes(data)}
        sources = {f"params/{stage}.json": sha256_bytes(stage.encode()), "recipes/a.yaml": sha256_bytes(b"recipe")}
        # The lock is in predicates alone, and may change between two stages.
        lock = {"requirements.lock": sha256_bytes(b"old" if stage == "ingest" else b"new")}
        read_files = {name: digest for step in INPUTS[stage] for name, digest in made[step].items()}
        statements[stage] = {
            "subject": [{"name": name, "digest": digest} for name, digest in made[stage].items()],
            "predicate": predicate(stage, {**sources, **lock}),
        }
        digests[stage] = sha256_bytes(canonical_json(statements[stage]))
        links[stage] = {
            "materials": {**read_files, **{name: {"sha256": digest} for name, digest in sources.items()}},
            "products": {**made[stage], f"attestations/{stage}.dsse.json": {"sha256": digests[stage]}},
            "command": ["secpipeline", "run", stage],
        }
    return Evidence(statements, digests, links, artifacts)


def component(bill, name):
    (found,) = [entry for entry in bill["components"] if entry["bom-ref"].startswith(f"{name}@")]
    return found


def metrics(bill):
    found = component(bill, "deploy/detector.onnx")["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    return {(entry["type"], entry["slice"]): entry for entry in found}


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def put(value, path, new):
    *parents, last = path
    for key in parents:
        value = value[key]
    value[last] = new
