"""Our image server with the SDXL pipeline: one hot pipeline, many clients.

python -m recipes.director_generator.sdxl_server --port 7000 --device cuda:0

It takes the flags of `agentfly serve-images`, with other defaults for model, port and device.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

MODEL = "stabilityai/stable-diffusion-xl-base-1.0"


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    from agentfly.serving.image_server.command import main as serve

    given = list(sys.argv[1:] if arguments is None else arguments)
    defaults = ["--model-type", "sdxl", "--model-path", MODEL, "--port", "7000", "--device", "cuda:0"]
    # The last of two equal flags counts.
    serve([*defaults, *given], "python -m recipes.director_generator.sdxl_server")


if __name__ == "__main__":
    main()
