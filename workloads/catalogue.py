"""The named models: one file each under ``data/models``, read only when asked for.

A file holds the fields of the model's own configuration, its source, and the published parameter
counts that the tests compare with.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.workloads.huggingface import model_from_config, read_json_object
from ridgeline.workloads.model import Model

_DATA = Path(__file__).parent / "data"
_SEPARATORS = str.maketrans("", "", "-_ ")


@lru_cache(maxsize=1)
def model_names() -> tuple[str, ...]:
    """Return the names of the catalogue, sorted."""
    return tuple(sorted(path.stem for path in (_DATA / "models").glob("*.json")))


@lru_cache(maxsize=1)
def model_aliases() -> dict[str, str]:
    """Return the other names of models of the catalogue, with the name that each stands for."""
    return {str(key): str(value) for key, value in read_json_object(_DATA / "aliases.json").items()}


def model_entry(name: str) -> dict[str, Any]:
    """Return the catalogue file of a model: ``config``, ``source`` and ``published``."""
    return read_json_object(_DATA / "models" / f"{name}.json")


def load_model(name: str | Path) -> Model:
    """Return a model of the catalogue, or read one from a file.

    Parameters
    ----------
    name
        A name or alias, in any case, with or without hyphens, optionally behind an organisation
        (``meta-llama/Llama-3.1-8B``); or the path of a ``config.json`` or of its folder.

    Raises
    ------
    InputError
        When there is no such model (with the nearest name), or the file cannot be used.
    """
    if isinstance(name, Path) or name.endswith(".json"):
        return model_from_config(name)
    key = _key(name)
    for known in model_names():
        if _key(known) == key:
            return _load(known)
    for alias, known in model_aliases().items():
        if _key(alias) == key:
            return _load(known)
    with suppress(OSError):  # a name too long for a path
        if (Path(name) / "config.json").is_file():
            return model_from_config(name)
    hint = nearest(name.rsplit("/", 1)[-1][:200], {*model_names(), *model_aliases()})
    raise InputError(
        f"model {name[:200]!r}: not in the catalogue, {hint} (or give the path of a config.json)"
    )


def _key(name: str) -> str:
    return name.strip().rsplit("/", 1)[-1].lower().translate(_SEPARATORS)


@lru_cache(maxsize=256)
def _load(name: str) -> Model:
    entry = model_entry(name)
    return model_from_config(entry["config"], name, source=entry["source"])
