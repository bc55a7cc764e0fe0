"""A calibrated stack as the text of a stack file, every value with its source."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from ridgeline.simulator.stacks import Stack
from ridgeline.validation.calibration.user import UserFit


def stack_file(fit: UserFit, label: str) -> str:
    """Return the TOML text of a calibrated stack; ``load_stack`` reads it back unchanged.

    Parameters
    ----------
    fit
        From ``calibrate``.
    label
        What it was fitted to, in words.
    """
    stack = fit.stack
    assert stack.calibration is not None
    errors = f"{_mean(fit.before)} before, {_mean(fit.after)} after, {_mean(fit.held_out)} held out"
    lines = [
        f"# {fit.base} calibrated on {label} by ridgeline fit --measured.",
        f"# Mean error of those steps: {errors}.",
        "",
        f"description = {_text(f'{fit.base} calibrated on {label}.')}",
    ]
    for field in fields(Stack):
        if field.name not in stack.sources:
            continue
        lines += [
            "",
            f"[{field.name}]",
            f"value = {_value(getattr(stack, field.name))}",
            f"source = {_text(stack.sources[field.name])}",
        ]
    lines += ["", "[calibration]"]
    lines += [f"{key} = {_value(value)}" for key, value in asdict(stack.calibration).items()]
    return "\n".join(lines) + "\n"


def _mean(errors: Any) -> str:
    return f"{100 * float(np.mean(np.abs(errors))):.1f}%"


def _text(text: str) -> str:
    """Return a TOML basic string: JSON's escapes are a subset of TOML's but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        entries = (f"{_text(key)} = {_value(one)}" for key, one in value.items())
        return f"{{ {', '.join(entries)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one) for one in value)}]"
    return repr(value)
