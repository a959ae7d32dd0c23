"""`benchmarks/calibration.py` as a module: it is no part of a package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[3]
SCRIPT: Any = load_script("benchmarks/calibration.py")
