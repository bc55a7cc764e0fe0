"""Run a benchmark by name: ``python benchmarks/run.py NAME [FOLDER] [--json]``.

``NAME`` stands for ``benchmarks/NAME.py`` (hyphens become underscores), whose ``run()`` returns a
dictionary of figures: CPU seconds of one process, after compilation, median of repeats.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """Return the names of the benchmarks that are there."""
    files = (path.stem for path in FOLDER.glob("*.py"))
    return sorted(stem.replace("_", "-") for stem in files if stem not in ("run", "conftest"))


def load(name: str) -> ModuleType:
    """Import the file behind a name."""
    path = FOLDER / f"{name.replace('-', '_')}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=names(), metavar="NAME", help=", ".join(names()))
    parser.add_argument("data", nargs="?", metavar="FOLDER", help="measured data, where it is used")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    given = [arguments.data] if arguments.data else []
    figures = load(arguments.name).run(*given)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    width = max(map(len, figures))
    for key, value in figures.items():
        print(
            f"{key:<{width}}  {value:.6g}"
            if isinstance(value, float)
            else f"{key:<{width}}  {value}"
        )


if __name__ == "__main__":
    main()
