"""`python examples/website_builder/html.py` is `python -m recipes.text_systems.website_builder`."""

from __future__ import annotations

import sys
from pathlib import Path

# As in `example.py`.
sys.path.append(str(Path(__file__).resolve().parents[4]))

from recipes.text_systems.website_builder import main

if __name__ == "__main__":
    sys.exit(main(["--output-dir", "examples/website_builder/generated_website", *sys.argv[1:]]))
