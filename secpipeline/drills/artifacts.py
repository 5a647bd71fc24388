"""Small files of every kind that the stages make, under the names that the stages give them.

>>> write_artifacts(Path("artifacts"), project=Path("project"))          # doctest: +SKIP
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import save

from secpipeline.datasets.formats.coco import read_coco
from secpipeline.datasets.releases import Release, write_release, write_tables
from secpipeline.digests import canonical_json, sha256_file
from secpipeline.stages.source_manifests import write_source_manifests

VENDORS = ("vendor-a", "vendor-b", "vendor-c")
CHANNEL = "production"
_WIDTH, _HEIGHT = 48, 32
_CARD = {"name": "drill", "input_size": [_HEIGHT, _WIDTH], "nms_iou": 0.5, "recipe": "throwaway", "threshold": 0.5}


def write_artifacts(artifacts: Path, project: Path) -> None:
    """Write the artifacts of every stage; whatever has a random part is seeded.

    Parameters
    ----------
    artifacts
        Gets a directory for each stage.
    project
        Gets what is delivered, and holds the policy.
    """
    _deliver(project / "delivery")
    annotations = read_coco(project / "delivery/instances.json")
    splits = pd.Series(["train", "test"] * len(VENDORS), index=annotations.images.index)
    raw = artifacts / "ingest"
    raw.mkdir(parents=True)
    write_release(raw, annotations, splits)
    release = Release(raw, raw)
    write_source_manifests(raw, release.images)
    curated = artifacts / "curate"
    curated.mkdir()
    write_tables(curated, release.images[1:], release.boxes[1:])
    write_source_manifests(curated, release.images[1:])
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    _write(artifacts / "train/detector.safetensors", save({"stem.weight": weights}))
    _write(artifacts / "export/detector.onnx", _graph(weights))
    _write_tables(artifacts)
    _write_reports(artifacts, project)


def _deliver(delivery: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2 * len(VENDORS), _HEIGHT, _WIDTH, 3), dtype=np.uint8)
    names = [f"{vendor}-{number}.jpg" for vendor in VENDORS for number in range(2)]
    for name, image in zip(names, pixels, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG")
        _write(delivery / name, buffer.getvalue())
    size = {"width": _WIDTH, "height": _HEIGHT}
    images = [{"id": i, "file_name": name, "source": name[:8], **size} for i, name in enumerate(names)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [4, 4, 8, 20]} for i in range(len(names))]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "pedestrian"}]}
    _write(delivery / "instances.json", json.dumps(document).encode())


def _graph(weights: np.ndarray[Any, Any]) -> bytes:
    """One convolution, as a model that any ONNX runtime loads."""
    shapes = {"image": (1, 3, _HEIGHT, _WIDTH), "features": (1, 4, _HEIGHT - 2, _WIDTH - 2)}
    tensors = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()
    }
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["image", "weights"], ["features"])],
        "detector",
        [tensors["image"]],
        [tensors["features"]],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _write_tables(artifacts: Path) -> None:
    found = {"box_id": ["0#0"], "image_id": ["0"], "kind": ["ghost"], "score": [0.9]}
    decided = {"image_id": ["0"], "decision": ["hold"], "reason": ["ghost"]}
    for name, columns in (("audit_labels/findings", found), ("curate/decisions", decided)):
        path = artifacts / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), path)


def _write_reports(artifacts: Path, project: Path) -> None:
    graph, policy = sha256_file(artifacts / "export/detector.onnx"), sha256_file(project / "policies/default.yaml")
    measured = {name: {"value": 0.5} for name in ("ap50", "mr2", "miss_rate", "fppi")}
    sample = {"images": 2, "people": 2, "subset": "all", "threshold": 0.5}
    reports: dict[str, Any] = {
        "validate/report.json": {"failedTests": [], "passedTests": ["images", "boxes"]},
        "audit_labels/report.json": {"held": 1, "images": 6},
        "audit_labels/sources.json": {"named": [], "rows": [{"source": vendor} for vendor in VENDORS]},
        "train/detector.json": _CARD,
        "train/training.json": {"epochs": 1},
        "export/agreement.json": {"agrees": True},
        "attack/report.json": {**sample, "conditions": {"clean": measured}, "corrupted_mean_ap50": None},
        "gate/verdict.json": {"checks": [], "reasons": [], "verdict": "pass"},
        "release/release.json": {
            "artifact": {"name": "export/detector.onnx", "sha256": graph},
            "detector": _CARD,
            "policy": {"name": "policies/default.yaml", "sha256": policy},
            "verdict": "pass",
        },
        "deploy/deployment.json": {"channel": CHANNEL, "outcome": "deployed"},
        "monitor/report.json": {"state": "steady", "statistics": []},
        "monitor/incidents.json": {"incidents": []},
    }
    for name, content in reports.items():
        _write(artifacts / name, canonical_json(content))
    shutil.copyfile(artifacts / "train/detector.json", artifacts / "export/detector.json")
    (artifacts / "deploy").mkdir(exist_ok=True)
    for name in ("detector.onnx", "detector.json"):
        shutil.copyfile(artifacts / "export" / name, artifacts / "deploy" / name)
    for stage in sorted(artifacts.iterdir()):
        digests = {path.name: sha256_file(path) for path in sorted(stage.iterdir()) if path.is_file()}
        _write(stage / "summary.json", canonical_json(digests))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
