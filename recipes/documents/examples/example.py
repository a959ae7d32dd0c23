"""`python examples/example.py` is `python -m recipes.text_systems --output-dir examples/example_outputs`."""

from __future__ import annotations

import sys
from pathlib import Path

# As in `example.py`.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from recipes.text_systems.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["--output-dir", "examples/example_outputs", *sys.argv[1:]]))
