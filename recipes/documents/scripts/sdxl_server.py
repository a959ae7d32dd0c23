"""`python -m scripts.sdxl_server --port 7000` is `python -m recipes.director_generator.sdxl_server --port 7000`."""

from __future__ import annotations

import sys
from pathlib import Path

# As in `src.main`.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from recipes.director_generator.sdxl_server import main

if __name__ == "__main__":
    main()
