"""Batches without images in verl's forward of Qwen2.5-VL: the vision tower takes part, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("verl")
from transformers import AutoModelForImageTextToText
from verl.models.transformers import qwen2_vl

from agentfly.training.recipe.compose import TEXT_CHAINS
from agentfly.training.verl import text_chains

pytestmark = pytest.mark.slow


def test_verl_embeds_words_alone_and_every_weight_has_a_gradient(tiny_policy: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny_policy, dtype=torch.float32).model
    ids, mask = torch.tensor([[5, 6, 7]]), torch.tensor([[1, 1, 1]])
    # verl's own name, through which its forward calls it.
    embeds, kept = qwen2_vl._get_input_embeds(model, ids, mask, None, None, None, None)
    assert torch.equal(embeds, model.get_input_embeddings()(ids))
    assert kept is not None
    assert torch.equal(kept, mask)
    embeds.sum().backward()
    missing = [name for name, weight in model.visual.named_parameters() if weight.grad is None]
    assert missing == []
    assert text_chains.__name__ == TEXT_CHAINS
