"""What every test run shares."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
if os.environ.get("CI"):
    # the same examples on every run; by hand others are tried each time
    settings.load_profile("repeatable")
