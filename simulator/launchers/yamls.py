"""YAML of launchers, read with PyYAML's safe loader."""

from __future__ import annotations

from typing import Any

from ridgeline.errors import InputError


def read_yaml(text: str) -> dict[str, Any]:
    """Return a YAML mapping with nested keys joined by dots.

    Raises
    ------
    InputError
        Not YAML, or not a mapping.
    """
    import yaml

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"launcher: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError("launcher: not YAML of a job: nested too deeply") from None
    if not isinstance(document, dict):
        raise InputError("launcher: not a mapping of settings")
    return _flat(document)


def _flat(table: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
