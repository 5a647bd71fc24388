import os

import attackers
import pytest

from secpipeline.drills import throwaway


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """One throwaway chain for all tests; they attack copies of it."""
    return throwaway.build(tmp_path_factory.mktemp("drill"))


@pytest.fixture
def chain(built, tmp_path):
    return built.copy(tmp_path / "chain")


@pytest.fixture(scope="session")
def prepared(built, tmp_path_factory):
    """The chain as a group of tamperings needs it, made once for each group."""
    ready = {}

    def ask(group):
        if group.title not in ready:
            ready[group.title] = attackers.prepare(built, group, tmp_path_factory.mktemp("group") / "chain")
        return ready[group.title]

    return ask


@pytest.fixture
def no_sync(monkeypatch):
    """Nothing here has to survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
