"""The ids that stand for an image in a prompt, by the processor that will also make the model's input of it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

from agentfly.templates.families.family import Processor, Runs

if TYPE_CHECKING:
    from PIL import Image


def runs_of(ids: Iterable[int]) -> Runs:
    """Return ids as runs: (id, how often it follows itself)."""
    return tuple((token, sum(1 for _ in same)) for token, same in groupby(ids))


def grid_ids(processor: Processor, image: Image.Image, index: int) -> Runs:
    """Return one placeholder for each group of merged patches: the families of Qwen-VL and GLM-V.

    Args:
        processor: with an image processor that counts patches from the size alone.
        image: of which only the size is read.
        index: of the image, which does not matter here.

    Raises:
        ValueError: the processor refuses the shape of the image.
    """
    images = processor.image_processor
    patches = int(images.get_number_of_image_patches(image.height, image.width, {}))
    token = int(processor.tokenizer.convert_tokens_to_ids(processor.image_token))
    return ((token, patches // int(images.merge_size) ** 2),)


def processed_ids(processor: Processor, image: Image.Image, index: int) -> Runs:
    """Return the ids that the processor itself writes for an image: tiles, rows, breaks and all.

    Args:
        processor: of a family whose images have more than one kind of id.
        image: to process; the work is repeated for the model's input.
        index: of the image, which does not matter here.
    """
    return runs_of(_written(processor, image, processor.image_token))


def gemma3_ids(processor: Processor, image: Image.Image, index: int) -> Runs:
    """Return the ids of a Gemma 3 image, without the empty lines around it (`Placeholder.around`)."""
    tokenizer = processor.tokenizer
    names = (processor.boi_token, processor.image_token, tokenizer.eoi_token)  # type: ignore[attr-defined]
    begin, token, end = (int(tokenizer.convert_tokens_to_ids(name)) for name in names)
    # Pan and scan, which is off by default, would write more: the processor says how often.
    written = _written(processor, image, processor.boi_token)  # type: ignore[attr-defined]
    inner = written[written.index(begin) : len(written) - written[::-1].index(end)]
    assert token in inner
    return runs_of(inner)


def numbered_ids(processor: Processor, image: Image.Image, index: int) -> Runs:
    """Return the ids of a MiniCPM-V image: its number in the conversation, then the image and its slices."""
    runs = processed_ids(processor, image, index)
    if not processor.image_processor.use_image_id:
        return runs
    tokenizer = processor.tokenizer
    begin, end = (
        int(tokenizer.convert_tokens_to_ids(name))
        for name in (tokenizer.image_id_start_token, tokenizer.image_id_end_token)
    )
    ids = [token for token, count in runs for _ in range(count)]
    number = tokenizer(str(index), add_special_tokens=False)["input_ids"]
    # A processor that sees one image counts from 0 in every call.
    return runs_of([begin, *number, *ids[ids.index(end) :]])


def _written(processor: Processor, image: Image.Image, mark: str) -> list[int]:
    """Return the ids that a processor makes of a prompt that is one image and nothing else."""
    made = processor(text=[mark], images=[[image.convert("RGB")]], add_special_tokens=False)
    ids = made["input_ids"][0]
    return [int(token) for token in ids]
