"""The work that the benchmarks of rollouts share: waits drawn once, texts of the model, images.

Nothing but the standard library and Pillow, since other projects' environments import it, too.
"""

from __future__ import annotations

import io
import json
import random
import resource
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

SIDE = 512


@dataclass(frozen=True)
class Plan:
    """The work of a benchmark.

    Attributes:
        prompts, group: conversations, and chains of each; all chains run at the same time.
        turns: generations of a chain; every one but the last calls a tool, the last one answers.
        model_seconds, tool_seconds: medians of the log-normal waits.
        sigma: of the logarithm of the waits; with 0.5, one wait in twenty is longer than 2.3 medians.
        images: whether every call of the tool makes an image.
        side: of the images, in pixels.
        seed: of the waits.
        first: number of the first chain, from which its images are drawn.
    """

    prompts: int = 32
    group: int = 8
    turns: int = 8
    model_seconds: float = 0.5
    tool_seconds: float = 0.25
    sigma: float = 0.5
    images: bool = False
    side: int = SIDE
    seed: int = 0
    first: int = 0

    @property
    def chains(self) -> int:
        """Chains in all."""
        return self.prompts * self.group

    @cached_property
    def waits(self) -> list[list[tuple[float, float]]]:
        """Seconds of the model and of the tool, by chain and turn."""
        drawn = random.Random(self.seed)

        def wait(median: float) -> float:
            return median * drawn.lognormvariate(0, self.sigma)

        calls = [[(wait(self.model_seconds), wait(self.tool_seconds)) for _ in range(self.turns - 1)] for _ in self.all]
        return [[*turns, (wait(self.model_seconds), 0.0)] for turns in calls]

    @property
    def all(self) -> range:
        """Numbers of the chains."""
        return range(self.chains)

    def bound(self) -> float:
        """Seconds of the slowest chain: no schedule is faster."""
        return max(sum(model + work for model, work in turns) for turns in self.waits)

    def text(self, chain: int, turn: int) -> str:
        """Return the text of the model in one turn."""
        call: dict[str, Any] = {"name": "work", "arguments": {"chain": chain, "turn": turn}}
        if turn == self.turns - 1:
            call = {"name": "answer", "arguments": {"image_id": "img_1"}}
        return f"Let me look at the image once more.\n<tool_call>\n{json.dumps(call)}\n</tool_call>"

    def inputs(self) -> list[bytes]:
        """The image of each prompt, as a file."""
        buffers = [io.BytesIO() for _ in range(self.prompts)]
        for prompt, buffer in enumerate(buffers):
            make_image(-1 - self.first - prompt, 0, self.side).save(buffer, "PNG")
        return [buffer.getvalue() for buffer in buffers]


def make_image(chain: int, turn: int, side: int = SIDE) -> Image.Image:
    """An image that no other turn has."""
    image = Image.new("RGB", (side, side), (chain * 7 % 256, turn * 31 % 256, 90))
    image.putpixel((turn, chain % side), (255, chain // 256 % 256, 255))
    return image


def peak_mib() -> float:
    """Largest resident size of this process so far, in MiB (Linux counts KiB, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
