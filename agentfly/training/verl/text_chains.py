"""The input embeddings of Qwen2-VL, Qwen2.5-VL and GLM-4.6V-Flash, in verl's processes that load a model.

Every part that FSDP shards has to take part in each pass, so verl sends a blank image through the vision tower of a
batch without images. It takes the tower's output for a tensor, as transformers 4 gave it; in transformers 5 it has
fields (verl/models/transformers/qwen2_vl.py:393; with images it is unpacked, line 354). For GLM-4V it does so with
images, too (verl/models/transformers/glm4v.py:349), and could not train it at all. Every run names this module in
`actor_rollout_ref.model.external_lib`, which verl imports before it loads the model.
"""

from __future__ import annotations

from typing import Any

import torch
from verl.models.transformers import glm4v, qwen2_vl

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
    embeds = model.get_input_embeddings()(input_ids)
    embeds = embeds + 0.0 * _blank_features(model, embeds).mean()
    return embeds, None if attention_mask is None else attention_mask.to(embeds.device)


def glm_input_embeds(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    pixel_values: torch.Tensor | None = None,
    pixel_values_videos: torch.Tensor | None = None,
    image_grid_thw: torch.Tensor | None = None,
    video_grid_thw: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the input embeddings of a batch of GLM-4V and its mask; the arguments are those of `input_embeds`.

    Raises:
        ValueError: the batch has videos, or the images have more or fewer features than the ids have places.
    """
    if pixel_values_videos is not None:
        raise ValueError("videos are not trained on")
    embeds = model.get_input_embeddings()(input_ids)
    if pixel_values is None:
        embeds = embeds + 0.0 * _blank_features(model, embeds).mean()
    else:
        made = model.visual(pixel_values.type(model.visual.dtype), grid_thw=image_grid_thw)
        features, _ = qwen2_vl.unpack_visual_output(made)
        places = input_ids == model.config.image_token_id
        if int(places.sum()) != len(features):
            raise ValueError(f"{int(places.sum())} places of images in the ids, and {len(features)} features")
        embeds = embeds.masked_scatter(places.unsqueeze(-1).expand_as(embeds), features.to(embeds.dtype))
    return embeds, None if attention_mask is None else attention_mask.to(embeds.device)


def _blank_features(model: Any, embeds: torch.Tensor) -> torch.Tensor:
    """Return the vision tower's features of a blank image."""
    vision = model.config.vision_config
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    blank = torch.zeros((16, values), dtype=embeds.dtype, device=embeds.device)
    grid = torch.tensor([[1, 4, 4]], dtype=torch.long, device=embeds.device)
    features, _ = qwen2_vl.unpack_visual_output(model.visual(blank, grid_thw=grid))
    return features


qwen2_vl._get_input_embeds = input_embeds
glm4v._get_input_embeds = glm_input_embeds
