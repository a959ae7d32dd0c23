"""The documented command that serves an image model; `agentfly serve-images` is the same."""

from __future__ import annotations


def main() -> None:
    """Hand on to the server."""
    # A door into the floor above, opened only when somebody goes through it.
    from agentfly.serving.image_server.command import main as serve_images

    serve_images(program="diffuser_apis")


if __name__ == "__main__":
    main()
