"""Chains without images on Qwen2-VL and Qwen2.5-VL, in verl's processes that load a model.

Every part that FSDP shards has to take part in each pass, so verl sends a blank image through the vision tower of a
batch without images. It takes the tower's output for a tensor, as transformers 4 gave it; in transformers 5 it has
fields (verl/models/transformers/qwen2_vl.py:393; with images it is unpacked, line 354). Recipes name this module in
`actor_rollout_ref.model.external_lib`, which verl imports before it loads the model.
"""

from __future__ import annotations

from typing import Any

import torch
from verl.models.transformers import qwen2_vl

_with_images = qwen2_vl._get_input_embeds


def input_embeds(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    pixel_values: torch.Tensor | None = None,
    pixel_values_videos: torch.Tensor | None = None,
    *grids: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the input embeddings of a batch and its mask, as verl's function does.

    Args:
        model: Qwen2-VL or Qwen2.5-VL.
        input_ids: (batch, length).
        attention_mask: (batch, length), or None.
        pixel_values, pixel_values_videos: (patches, values) of images and of videos, None without any.
        grids: of both, (count, 3): frames, rows and columns of patches.
    """
    if pixel_values is not None or pixel_values_videos is not None:
        embeds, mask = _with_images(model, input_ids, attention_mask, pixel_values, pixel_values_videos, *grids)
        return embeds, mask
    embeds, vision = model.get_input_embeddings()(input_ids), model.config.vision_config
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    blank = torch.zeros((16, values), dtype=embeds.dtype, device=embeds.device)
    grid = torch.tensor([[1, 4, 4]], dtype=torch.long, device=embeds.device)
    features, _ = qwen2_vl.unpack_visual_output(model.visual(blank, grid_thw=grid))
    return embeds + 0.0 * features.mean(), None if attention_mask is None else attention_mask.to(embeds.device)


qwen2_vl._get_input_embeds = input_embeds
