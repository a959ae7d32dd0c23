"""`python -m recipes.refinement_loop "prompt" --refs one.png https://…` prints one JSON object."""

from __future__ import annotations

import sys

from agentfly.systems.refinement.command import entry

if __name__ == "__main__":
    sys.exit(entry("python -m recipes.refinement_loop"))
