"""YAML that people wrote, read strictly: one clear error for whatever is wrong with it.

>>> parse("epochs: 3", "recipe.yaml")
{'epochs': 3}
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from secpipeline.errors import InputError


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets a later key silently replace an earlier one; here a key written twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def parse(text: str, where: str) -> Any:
    """The value of a YAML text; ``where`` names it in errors.

    Raises
    ------
    InputError
        If it is not YAML, asks for Python objects, or has a key twice.
    """
    try:
        return yaml.load(text, _UniqueKeys)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # an impossible date is a ValueError
        raise InputError(f"{where}: not valid YAML: {error}") from error


def read(path: Path, if_missing: str) -> Any:
    """The value of a YAML file.

    Raises
    ------
    InputError
        As :func:`parse`, or if the file is missing (``if_missing`` says what to do) or cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: {if_missing}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid YAML: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return parse(text, str(path))
