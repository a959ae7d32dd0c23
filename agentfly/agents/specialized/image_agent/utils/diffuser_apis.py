"""The documented command that serves an image model; `agentfly serve-images` is the same."""

from __future__ import annotations


def main() -> None:
    """Run `agentfly serve-images` with the arguments of this process."""
    # A door to the floors above, which are imported only when it is used.
    import sys

    from agentfly.cli import main as agentfly

    agentfly(["serve-images", *sys.argv[1:]])


if __name__ == "__main__":
    main()
