"""The resolution at which a policy was shown an image, from the settings of its image processor.

Processors of the Qwen-VL family scale an image so that its sides are multiples of a patch group and its area lies
between two bounds. The number of placeholder tokens tells if the processor did so here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_FILES = ("processor_config.json", "preprocessor_config.json")
_MOST_BYTES = 2**20


@dataclass(frozen=True)
class Sight:
    """How a processor scales images.

    Attributes:
        group: pixels of the side of a square that becomes one token.
        least, most: area in pixels.
    """

    group: int
    least: int
    most: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height at which an image of this size is shown, in pixels."""
        side = self.group
        across, down = (max(side, round(length / side) * side) for length in (width, height))
        if across * down > self.most:
            scale = math.sqrt(width * height / self.most)
            across, down = (max(side, math.floor(length / scale / side) * side) for length in (width, height))
        elif across * down < self.least:
            scale = math.sqrt(self.least / (width * height))
            across, down = (math.ceil(length * scale / side) * side for length in (width, height))
        return across, down


def seen_size(sight: Sight | None, size: tuple[int, int] | None, tokens: int | None) -> tuple[int, int] | None:
    """Return width and height at which the policy was shown an image; None where they are not known.

    Args:
        sight: of the policy.
        size: of the image in pixels.
        tokens: placeholders that the image had. A size that would have another number is not the one.
    """
    if sight is None or size is None or min(size) < 1:
        return None
    across, down = sight.size(*size)
    fits = tokens is None or across * down == tokens * sight.group**2
    return (across, down) if fits else None


def find_sight(policies: Sequence[Path]) -> Sight | None:
    """Return how the policy of a run is shown images; None where its processor's settings are not on this machine."""
    for folder in policies:
        for name in _FILES:
            try:
                status = (folder / name).stat()
                found = _read(folder / name, status.st_mtime_ns) if status.st_size <= _MOST_BYTES else None
            except OSError:
                continue
            if found is not None:
                return found
    return None


@lru_cache(maxsize=16)
def _read(path: Path, changed: int) -> Sight | None:
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        node: Mapping[str, Any] = config.get("image_processor", config)
        size = node.get("size") or {}
        least = node.get("min_pixels") or size["shortest_edge"]
        most = node.get("max_pixels") or size["longest_edge"]
        group = int(node["patch_size"]) * int(node["merge_size"])
        return Sight(group, int(least), int(most)) if group > 0 and 0 < int(least) <= int(most) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
