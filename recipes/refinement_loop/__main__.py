"""`python -m recipes.refinement_loop "prompt" --refs one.png https://…` is `agentfly generate`.

It prints one JSON object.
"""

from __future__ import annotations

import sys

from agentfly.cli import main

if __name__ == "__main__":
    main(["generate", *sys.argv[1:]])
