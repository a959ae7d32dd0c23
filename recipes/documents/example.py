"""`python example.py` is `python -m recipes.text_systems`."""

from __future__ import annotations

import sys
from pathlib import Path

# This file lies in the checkout, from which `recipes` is imported wherever the command is typed.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from recipes.text_systems.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
