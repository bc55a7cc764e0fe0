"""Map the top-level folders into the package ``ridgeline``.

A wheel gets each folder as ``ridgeline/<folder>``; an editable install gets a git-ignored
relative link to it in ``src/ridgeline``.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("hardware", "workloads", "simulator", "validation")


class FolderMapping(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        for folder in FOLDERS:
            if version != "editable":
                build_data["force_include"][str(root / folder)] = f"ridgeline/{folder}"
                continue
            link = root / "src" / "ridgeline" / folder
            if link.exists():
                continue
            if os.name == "nt":
                subprocess.run(["cmd", "/c", "mklink", "/J", link, root / folder], check=True)
            else:
                link.symlink_to(Path("..") / ".." / folder, target_is_directory=True)
