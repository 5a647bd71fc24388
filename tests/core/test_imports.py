import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import secpipeline

PACKAGE = Path(secpipeline.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = [
    ".".join(("secpipeline", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in SOURCES
]
FORBIDDEN = {
    "dagster": "the chain runs without the orchestrator",
    "dvc": "the chain runs without DVC",
    "pickle": "reading a pickle runs what it says",
    "cPickle": "reading a pickle runs what it says",
    "_pickle": "reading a pickle runs what it says",
    "dill": "reading a pickle runs what it says",
    "cloudpickle": "reading a pickle runs what it says",
    "joblib": "reading a pickle runs what it says",
    "shelve": "reading a pickle runs what it says",
    "marshal": "reading marshalled code runs what it says",
}
# Calls that unpickle, by the last two names of what is called.
UNPICKLING = {("torch", "load"), ("pd", "read_pickle"), ("pandas", "read_pickle"), ("hub", "load")}
UNSAFE_YAML = {"full_load", "unsafe_load", "full_load_all", "unsafe_load_all"}


def imported(tree):
    """Top-level names of every absolute import, wherever it stands, and of __import__ and import_module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and called(node)[1] in ("import_module", "__import__"):
            yield from (str(name.value).partition(".")[0] for name in node.args if isinstance(name, ast.Constant))


def called(node):
    """The last two names of what is called."""
    name = node.func
    if isinstance(name, ast.Attribute):
        owner = name.value
        return getattr(owner, "attr", getattr(owner, "id", "")), name.attr
    return "", getattr(name, "id", "")


def unsafe(tree):
    """Calls that may run what they read."""
    safe = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "yaml.SafeLoader" for base in node.bases)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            owner, name = called(node)
            if (owner, name) in UNPICKLING or (owner == "yaml" and name in UNSAFE_YAML):
                yield f"{owner}.{name}"
            if (owner, name) == ("yaml", "load") and getattr(node.args[-1], "id", "") not in safe:
                yield "yaml.load"
            if any(word.arg == "allow_pickle" for word in node.keywords):
                yield "allow_pickle"
            if any(word.arg == "weights_only" for word in node.keywords):
                yield "weights_only"


def test_the_search_finds_what_it_looks_for():
    tree = ast.parse(
        "def f():\n    import os, pickle\n    from dagster.core import x\nfrom . import dvc\n"
        "importlib.import_module('joblib')\n__import__('dill')\n"
        "torch.load(p)\nnp.load(p, allow_pickle=True)\nyaml.load(p, L)\nyaml.safe_load(p)\njson.load(p)\n"
        "class Safe(yaml.SafeLoader): pass\nyaml.load(p, Safe)"
    )
    assert set(imported(tree)) & FORBIDDEN.keys() == {"pickle", "dagster", "joblib", "dill"}
    assert sorted(unsafe(tree)) == ["allow_pickle", "torch.load", "yaml.load"]


@pytest.mark.parametrize("path", SOURCES, ids=MODULES)
def test_no_module_imports_an_orchestrator_or_anything_that_unpickles(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name in imported(tree):
        assert name not in FORBIDDEN, f"{path}: imports {name}: {FORBIDDEN[name]}"
    assert not list(unsafe(tree))


def test_importing_everything_loads_neither_dagster_nor_dvc():
    script = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]): importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, json.dumps(MODULES)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=PACKAGE.parent,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    loaded = set(json.loads(result.stdout.splitlines()[-1]))
    assert {"secpipeline", "torch", "onnxruntime"} <= loaded
    assert not {name for name in loaded if name.startswith(("dagster", "dvc"))}
    assert len(MODULES) > 60
