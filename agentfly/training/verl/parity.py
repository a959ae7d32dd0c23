"""The guards between rollout and trainer: inputs of each image computed once and checked, and a digest of the ids.

The rollout's codec says how many placeholders an image has; the trainer's inputs are made here, from the same
processor and the same pixels. `check_images` compares both. `digest` travels with the ids to the trainer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from agentfly.agents import Trajectory
from agentfly.errors import TrainingError
from agentfly.images import handle_of, on_white
from agentfly.templates import ChatCodec

if TYPE_CHECKING:
    import torch

CACHED_IMAGES = 64  # inputs of this many images are kept: the samples of one prompt begin with the same ones


class ImageInputs:
    """The model's inputs of images, computed once each.

    Args:
        codec: of the policy that is trained.
    """

    def __init__(self, codec: ChatCodec) -> None:
        self.codec = codec
        self._processor = codec.processor.image_processor
        self._of = lru_cache(maxsize=CACHED_IMAGES)(self._compute)
        self._open: Mapping[str, Image.Image] = {}

    def of(self, handles: Sequence[str], images: Sequence[Image.Image], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the inputs of a chain's images, in order; without any, only `mm_token_type_ids`.

        verl takes that out for the positions, which it computes of every chain of such a model
        (verl/experimental/agent_loop/agent_loop.py:937).

        Args:
            handles: names of the images in the trajectory.
            images: the same, as they go to the trainer.
            ids: shape (length,) or (1, length): the whole chain.

        Returns:
            `pixel_values` (patches, values), `image_grid_thw` (images, 3), `images_seqlens` (images,) and
            `mm_token_type_ids`, shaped as `ids`, 1 on the placeholders of images.

        Raises:
            TrainingError: an image is not the one that its handle names, or verl cannot train the family.
        """
        import torch

        if self.codec.family.trainer != "grids":
            raise TrainingError(f"{self.codec.family.title} cannot be trained with verl: docs/models.md says why")
        kinds = (ids == self.codec.image_id).to(ids.dtype)
        if not handles:
            return {"mm_token_type_ids": kinds}
        self._open = dict(zip(handles, images, strict=True))
        found = [self._of(handle) for handle in handles]
        grids = torch.cat([grid for _, grid in found])
        return {
            "pixel_values": torch.cat([pixels for pixels, _ in found]),
            "image_grid_thw": grids,
            "images_seqlens": torch.repeat_interleave(grids[:, 1] * grids[:, 2], grids[:, 0]),
            "mm_token_type_ids": kinds,
        }

    def _compute(self, handle: str) -> tuple[torch.Tensor, torch.Tensor]:
        image = self._open[handle]
        if (found := handle_of(image)) != handle:
            raise TrainingError(f"image {handle} has become {found} on its way to the trainer")
        made = self._processor(images=[on_white(image)], return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]


def check_images(trajectory: Trajectory, ids: Sequence[int], grids: torch.Tensor | None, codec: ChatCodec) -> None:
    """Compare the placeholders of a chain with the grids that the trainer gets.

    Args:
        trajectory: with its images in the order of their placeholders.
        ids: the whole chain.
        grids: (images, 3): frames, rows and columns of patches; None without images.
        codec: of the policy.

    Raises:
        TrainingError: naming the chain, the turn and the image.
    """
    merge = codec.processor.image_processor.merge_size**2
    wanted = [] if grids is None else [int(grid.prod()) // merge for grid in grids]
    runs = codec.image_runs(ids)
    for index in range(max(len(runs), len(wanted), len(trajectory.images))):
        run, grid = (counts[index] if index < len(counts) else 0 for counts in (runs, wanted))
        if run == grid and index < len(trajectory.images):
            continue
        handle = trajectory.images[index] if index < len(trajectory.images) else "none"
        place = _place_of_image(trajectory, ids, codec, index)
        raise TrainingError(
            f"chain {trajectory.id}, {place}, image {index} ({handle}): the rollout has {run} placeholders, "
            f"the trainer {grid}"
        )


def digest(ids: Sequence[int], mask: Sequence[int]) -> str:
    """Return a hash of a chain's ids and of the mask that marks the sampled ones.

    Args:
        ids: the whole chain.
        mask: of the ids after the prompt: 1 where the id was sampled.
    """
    made = hashlib.sha256(f"{len(ids)}:".encode())
    made.update(np.asarray(ids, np.int64).tobytes())
    made.update(np.asarray(mask, np.int64).tobytes())
    return made.hexdigest()[:16]


def _place_of_image(trajectory: Trajectory, ids: Sequence[int], codec: ChatCodec, image: int) -> str:
    """Return the part of the conversation that a run of placeholders stands in."""
    starts = [i for i, t in enumerate(ids) if t == codec.image_id and (i == 0 or ids[i - 1] != codec.image_id)]
    prompt = len(trajectory.tokens.prompt_ids) if trajectory.tokens else 0
    if image >= len(starts) or starts[image] < prompt:
        return "prompt" if image < len(starts) else "after its last turn"
    place = starts[image] - prompt
    return f"after turn {max((i for i, turn in enumerate(trajectory.turns) if turn.end <= place), default=0)}"
