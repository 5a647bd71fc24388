"""Looking things up in JSON that is signed but may have any shape."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from cyclonedx.exception import CycloneDxException

from secpipeline.errors import AttestationError

CODE = "bill-of-materials"

Payloads = Mapping[str, Mapping[str, Any]]  # by stage


@contextlib.contextmanager
def one_clear_error() -> Iterator[None]:
    """Evidence and reports that are signed but of an unknown shape are a refusal, never a traceback."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, CycloneDxException) as error:
        reason = f"{type(error).__name__}: {error}"
        raise AttestationError(CODE, f"evidence or a report has an unknown shape ({reason}); run the chain") from error


def get(value: Any, where: str, *path: str) -> Any:
    """What lies under a path of keys; ``where`` names the document in the error.

    Raises
    ------
    AttestationError
        With code ``bill-of-materials`` if nothing lies there.
    """
    for depth, key in enumerate(path, 1):
        if not isinstance(value, Mapping) or key not in value:
            raise AttestationError(CODE, f"{where}: has no {'.'.join(path[:depth])}; run the chain again")
        value = value[key]
    return value


def find(value: Any, path: str, default: Any = None) -> Any:
    """What lies under a dotted path of keys, or the default."""
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return default
        value = value[key]
    return value


def walk(value: Any, key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every object, with the key under which it, or the list that holds it, lies."""
    if isinstance(value, Mapping):
        yield key, value
        for name, item in value.items():
            yield from walk(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item, key)
