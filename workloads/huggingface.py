"""Read a Hugging Face ``config.json`` into a model.

One small function per family says what its configuration means (``families_dense``,
``families_moe``, ``families_hybrid``); ``FAMILIES`` is their table. What each field does is a fact
of the family's published modelling code; a field that a family's configuration class may omit
takes that class's default.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.workloads import (
    families_dense,
    families_encoders,
    families_hybrid,
    families_images,
    families_layers,
    families_moe,
    variants,
)
from ridgeline.workloads.fields import Fields
from ridgeline.workloads.model import Model

FAMILIES: Mapping[str, Callable[[Fields], Model]] = {
    "bert": families_encoders.bert,
    "bloom": families_dense.bloom,
    "deepseek_v2": families_moe.deepseek,
    "deepseek_v3": families_moe.deepseek,
    "deepseek_v32": families_layers.deepseek_v32,
    "dit": families_images.dit,
    "falcon": families_dense.falcon,
    "gemma": families_dense.gemma,
    "gemma2": families_dense.gemma2,
    "gemma3": families_dense.gemma3,
    "gemma3_text": families_dense.gemma3,
    "glm4_moe": families_moe.glm4_moe,
    "glm_moe_dsa": families_hybrid.glm_moe_dsa,
    "gpt2": families_dense.gpt2,
    "gptj": families_hybrid.gptj,
    "gpt_neox": families_dense.gpt_neox,
    "gpt_oss": families_moe.gpt_oss,
    "grok-1": families_moe.grok,
    "kimi_k2": families_moe.deepseek,
    "kimi_linear": families_layers.kimi_linear,
    "llama": families_dense.llama,
    "llama4": families_moe.llama4,
    "llama4_text": families_moe.llama4,
    "llava": families_images.llava,
    "micro_dit": families_images.micro_dit,
    "mamba2": families_layers.mamba2,
    "minimax_m2": families_hybrid.minimax_m2,
    "mistral": partial(families_dense.llama, sliding=True),
    "mixtral": families_moe.mixtral,
    "mpt": families_dense.mpt,
    "nemotron": families_dense.nemotron,
    "nemotron_h": families_layers.nemotron_h,
    "opt": families_dense.opt,
    "phi3": partial(families_dense.llama, sliding=True),
    "qwen2": families_dense.qwen2,
    "qwen2_vl": families_images.qwen2_vl,
    "qwen2_moe": partial(families_moe.qwen_moe, dense=families_dense.qwen2, shared=True),
    "qwen3": families_dense.qwen3,
    "qwen3_5_moe": families_hybrid.qwen3_5_moe,
    "qwen3_5_moe_text": families_hybrid.qwen3_5_moe,
    "qwen3_next": families_layers.qwen3_next,
    "qwen3_moe": partial(families_moe.qwen_moe, dense=families_dense.qwen3, shared=False),
    "roberta": families_encoders.roberta,
    "t5": families_encoders.t5,
    "vit": families_encoders.vit,
}
"""Family (``model_type``) to the function that reads its configuration."""

# Older files of Falcon name the family by its first two sizes.
_OTHER_NAMES = {"RefinedWebModel": "falcon", "RefinedWeb": "falcon"}

# Configurations of pipelines name a class in place of a family.
_CLASSES = {"DiTTransformer2DModel": "dit"}

# These read text and vision together.
_WHOLE = ("llava", "qwen2_vl")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that must hold one JSON object.

    Raises
    ------
    InputError
        When the file cannot be read, is not JSON or is not an object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            "is the file complete?"
        ) from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not valid JSON (a number too long or nested too deep)") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {_kind(value)}, must hold a JSON object")
    return value


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def model_from_config(
    config: Mapping[str, Any] | str | Path, name: str | None = None, *, source: str = ""
) -> Model:
    """Make a model of a Hugging Face configuration.

    Parameters
    ----------
    config
        The configuration as an object, the path of a ``config.json``, or the folder it lies in.
    name
        Name of the model; by default that in the configuration, else the folder's or file's.
    source
        Where the configuration comes from; by default its path.

    Returns
    -------
    Model
        Of an image-and-text model the text part.

    Raises
    ------
    InputError
        With one line for each mistake: an unknown family, a missing field, a bad value.
    """
    if isinstance(config, str | Path):
        path = Path(config)
        with suppress(OSError):  # a name too long for a path; reading it says so
            if path.is_dir():
                path = path / "config.json"
        fallback = path.parent.name if path.stem == "config" else path.stem
        where, source = str(path), source or str(path)
        config = read_json_object(path)
    else:
        where, fallback = name or "config", "model"
        if not isinstance(config, Mapping):
            raise InputError(f"{where}: is {_kind(config)}, must be a JSON object")
    problems: list[str] = []
    family, fields = _select(config, where, problems)
    model = variants.with_variants(FAMILIES[family](fields), fields)
    if problems:
        raise InputError(problems)
    stated = config.get("_name_or_path")
    stated_name = stated.rstrip("/").rsplit("/", 1)[-1] if isinstance(stated, str) else ""
    return replace(
        model, name=name or stated_name or fallback or "model", family=family, source=source
    )


def _select(config: Mapping[str, Any], where: str, problems: list[str]) -> tuple[str, Fields]:
    """Return the family and the fields that describe the text model."""
    text = config.get("text_config")
    outer = config.get("model_type") or _CLASSES.get(str(config.get("_class_name")))
    if isinstance(text, Mapping) and outer not in _WHOLE:
        # Only the tie is stated outside, and only by some.
        inner = {"tie_word_embeddings": config.get("tie_word_embeddings"), **text}
        family = inner.get("model_type") or outer
        where = f"{where}: text_config"
    else:
        inner, family = dict(config), outer
    if family is None:
        raise InputError(f"{where}: missing field 'model_type' (the family of the model)")
    if not isinstance(family, str):
        raise InputError(f"{where}: 'model_type' is {family!r}: must be a string")
    family = _OTHER_NAMES.get(family, family)
    if family not in FAMILIES:
        raise InputError(f"{where}: unknown family {family!r}: {nearest(family, FAMILIES)}")
    return family, Fields(inner, where, problems)
