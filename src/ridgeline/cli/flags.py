"""Flags that override fields of a plan file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from ridgeline.cli.completion import OF_KEY


class Flag(NamedTuple):
    """A flag that overrides a field of the plan file."""

    name: str
    key: str
    kind: type | None
    """None for a switch with its ``--no-`` twin."""
    help: str
    metavar: str = ""


MONEY_FLAGS = (
    Flag("price", "money.usd_per_accelerator_hour", float, "USD per accelerator hour."),
    Flag(
        "price-kind",
        "money.kind",
        str,
        "on-demand, negotiated, reserved, spot or owned.",
        "NAME",
    ),
    Flag("prices", "money.prices", str, "Your own quotes (docs/cost.md).", "CSV"),
    Flag("provider", "money.provider", str, "Prices of this provider only.", "NAME"),
    Flag("as-of", "money.as_of", str, "Day by which prices are too old; today.", "DATE"),
    Flag("region", "money.region", str, "Whose electricity, for the carbon.", "NAME"),
    Flag("pue", "money.pue", float, "Power usage effectiveness of the building."),
)
"""What is paid, wherever anything is."""


def with_flags(command: Callable[..., Any], flags: Sequence[Flag]) -> Callable[..., Any]:
    """Add an option for each field that a command line may override."""
    for flag in reversed(flags):
        name = flag.name.replace("-", "_")
        if flag.kind is None:
            declaration = (name, f"--{flag.name}/--no-{flag.name}")
            option = click.option(*declaration, default=None, help=flag.help)
        else:
            option = click.option(
                name,
                f"--{flag.name}",
                type=flag.kind,
                metavar=flag.metavar or ("N" if flag.kind is int else "X"),
                help=flag.help,
                shell_complete=OF_KEY.get(flag.key),
            )
        command = option(command)
    return command


def flag_overrides(
    flags: Sequence[Flag], values: dict[str, Any]
) -> tuple[dict[str, object], dict[str, str]]:
    """Return what the flags override, by dotted key, and what to call each in a complaint."""
    overrides: dict[str, object] = {}
    labels: dict[str, str] = {}
    for flag in flags:
        value = values.get(flag.name.replace("-", "_"))
        if value is not None:
            key = flag.key
            if key == "model.name" and value.endswith(".json"):
                key = "model.config"
                # A path on the command line is relative to here, in a file to the file.
                value = str(Path(value).absolute())
            if key == "money.prices":
                value = str(Path(value).absolute())
            overrides[key] = value
            labels[key] = f"--{flag.name}"
    return overrides, labels
