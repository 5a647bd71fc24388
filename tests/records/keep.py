"""Keep a bundle of the present version: ``python tests/records/keep.py``. Never change one that was kept."""

import importlib.metadata
import os
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))


def main():
    from conftest import loosened, small_project

    from secpipeline import bundling, runner
    from secpipeline.workspace import Workspace

    target = HERE / importlib.metadata.version("secpipeline")
    if target.exists():
        raise SystemExit(f"{target}: kept already")
    with tempfile.TemporaryDirectory() as directory:
        os.environ["SECPIPELINE_KEYS"] = f"{directory}/keys"
        root = small_project(Path(directory) / "project")
        policy = root / "policies/default.yaml"
        policy.write_text(yaml.safe_dump(loosened(yaml.safe_load(policy.read_text()))))
        workspace = Workspace.open(root)
        runner.run_chain(workspace)
        bundling.export(workspace, "production", Path(directory) / "bundle")
        shutil.copytree(Path(directory) / "bundle", target / "bundle")
        shutil.copytree(workspace.keys / "public", target / "owners", ignore=lambda _, names: not_owners(names))


def not_owners(names):
    return [name for name in names if not name.startswith("owner-")]


if __name__ == "__main__":
    main()
