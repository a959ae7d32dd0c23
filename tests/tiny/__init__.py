"""Tiny random checkpoints of the real model classes, built offline: a folder each, as `from_pretrained` reads them.

`build(name, folder)` writes one. The weights are random, so the results mean nothing: tests use them to go through the
very code that loads and runs the real checkpoints.
"""

from __future__ import annotations

import importlib
from pathlib import Path

# Name of the builder, and its module.
CHECKPOINTS = {
    "grounding_dino": "detectors",
    "mm_grounding_dino": "detectors",
    "groundingdino_py": "detectors",
    "sam": "segmenters",
    "sam2": "segmenters",
    "sd_inpaint": "stable_diffusion",
    "sdxl_inpaint": "stable_diffusion",
    "sdxl": "stable_diffusion",
    "instruct_pix2pix": "stable_diffusion",
    "flux_fill": "flux",
    "flux_kontext": "flux",
    "qwen_edit": "qwen_image",
    "qwen_edit_plus": "qwen_image",
    "qwen_edit_inpaint": "qwen_image",
}


def build(name: str, folder: Path) -> Path:
    """Write a checkpoint of `CHECKPOINTS` into a folder, and give the folder."""
    module = importlib.import_module(f"tests.tiny.{CHECKPOINTS[name]}")
    made: Path = getattr(module, name)(folder)
    return made
