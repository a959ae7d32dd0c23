"""Our image server with the SDXL pipeline: one hot pipeline, many clients.

python -m recipes.director_generator.sdxl_server --port 7000 --device cuda:0

Options are those of `agentfly serve-images`. They come after the defaults of this recipe and override them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

MODEL = "stabilityai/stable-diffusion-xl-base-1.0"


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        arguments: options; None for those of the process.
    """
    from agentfly.cli import main as agentfly

    given = list(sys.argv[1:] if arguments is None else arguments)
    defaults = ["--model-type", "sdxl", "--model-path", MODEL, "--port", "7000", "--device", "cuda:0"]
    # The last of two equal options counts.
    agentfly(["serve-images", *defaults, *given])


if __name__ == "__main__":
    main()
