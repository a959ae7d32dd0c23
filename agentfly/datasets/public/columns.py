"""The columns of public data sets of image editing.

Columns and types as published in November 2026:

- `gedit-bench` (github.com/stepfun-ai/Step1X-Edit, `GEdit-Bench/generate_image_example.py`): task_type, key,
  instruction, instruction_language, input_image, input_image_raw, Intersection_exist (bool).
- `magicbrush` (huggingface.co/datasets/osunlp/MagicBrush): img_id, turn_index (int32), source_img, mask_img,
  instruction, target_img. Its test split is not on the hub.
- `emu-edit` (huggingface.co/datasets/facebook/emu_edit_test_set): instruction, image, task, split, idx (int64), hash,
  input_caption, output_caption.
- `humanedit` (huggingface.co/datasets/BryanW/HumanEdit; masks: `mask_convert.py` of github.com/viiika/HumanEdit):
  IMAGE_ID, EDITING_TYPE, CORE (int32), MASK (int32), EDITING_INSTRUCTION, OUTPUT_DESCRIPTION, INPUT_CAPTION_BY_LLAMA,
  OUTPUT_CAPTION_BY_LLAMA, INPUT_IMG, MASK_IMG, OUTPUT_IMG.
- `omniedit` (huggingface.co/datasets/TIGER-Lab/OmniEdit-Filtered-1.2M): omni_edit_id, task, src_img, edited_img,
  edited_prompt_list (list of strings), and scores that are not read.
- `pie-bench++` (huggingface.co/datasets/UB-CVML-Group/PIE_Bench_pp): image, id, source_prompt, target_prompt,
  edit_action, aspect_mapping, blended_words, mask (runs as text). It lacks an instruction: one is made of its
  captions.

Columns of metadata may be missing; all others must be there. Masks are converted to our form: mode L, white where the
image must change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from PIL import Image

from agentfly.datasets.tables import Row
from agentfly.errors import DatasetError
from agentfly.images import ImageSource, load_image


def mask_from_cutout(source: ImageSource) -> Image.Image:
    """Return the mask of an image whose edited region is transparent or, where transparency was lost, pure black.

    MagicBrush and HumanEdit publish masks in this form, which DALL-E took. In an image of black and white alone, black
    is the edited region too, as in HumanEdit's own `mask_convert.py`.

    Raises:
        ImageError: the source is no image.
    """
    image = load_image(source)
    if image.mode == "RGBA":
        alpha = np.asarray(image)[..., 3]
        if (alpha < 255).any():
            return Image.fromarray(np.where(alpha < 255, 255, 0).astype(np.uint8))
    pixels = np.asarray(image.convert("RGB"))
    return Image.fromarray(np.where(pixels.any(axis=2), 0, 255).astype(np.uint8))


def mask_from_runs(text: str, size: tuple[int, int] = (512, 512)) -> Image.Image:
    """Return the mask of PIE-Bench's runs "start length start length ...", which mark the edited pixels row by row.

    The benchmark's own scorer also marks the outermost pixels, to correct errors of annotation. Here they stay as they
    were annotated.

    Args:
        text: the runs; empty for no edited region.
        size: width and height; PIE-Bench's images are 512 x 512.

    Raises:
        DatasetError: the text is no list of runs, or a run starts outside the image.
    """
    width, height = size
    try:
        numbers = np.array([int(word) for word in text.replace(",", " ").strip("[] ").split()], dtype=np.int64)
    except (ValueError, OverflowError) as fault:
        raise DatasetError("the mask is not a list of whole numbers 'start length start length ...'") from fault
    starts, lengths = numbers[::2], numbers[1::2]
    if len(starts) != len(lengths) or (numbers < 0).any() or (starts >= width * height).any():
        raise DatasetError(f"the mask holds a run that does not fit into {width}x{height} pixels")
    flat = np.zeros(width * height, dtype=np.uint8)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        flat[start : start + length] = 255
    return Image.fromarray(flat.reshape(height, width))


def _omniedit(row: Row) -> Row:
    # The list holds several wordings of one edit.
    wordings = [text for text in row["edited_prompt_list"] or () if text]
    return {**row, "instruction": wordings[0] if wordings else "", "other_wordings": wordings[1:]}


def _pie_bench(row: Row) -> Row:
    # Brackets mark the words that change.
    captions = {name: str(row[name]).translate({91: None, 93: None}) for name in ("source_prompt", "target_prompt")}
    before, after = captions["source_prompt"], captions["target_prompt"]
    return {**row, **captions, "instruction": f'Change this image of "{before}" into "{after}".'}


@dataclass(frozen=True)
class Adapter:
    """A mapping of a data set's columns to the fields of a task.

    Attributes:
        repo: name of the data set on the hub.
        splits: names of the splits; the first is the default.
        id: columns that together name a row.
        images: columns with the image to edit; the first that holds one counts.
        instruction: column of the instruction.
        made_from: columns from which `prepare` makes the instruction; empty where there is a column of it.
        target, mask: columns, None where there is none.
        read_mask: converts a value of the mask column to a mask of ours.
        task_type: column of the task type.
        metadata: our key -> column.
        references: our name -> column of an image that only evaluators see, which may be empty.
        prepare: changes a row first, where a mapping is not enough.
        parts: named parts ("configs") of the repository, in order; rows then have a column `config`.
        language: column that the option `language` filters by.
        session: column that all turns on one image share; `metadata["turn"]` is then their order.
        streaming: read from the hub row by row, because the files are too large to fetch.
    """

    repo: str
    splits: tuple[str, ...]
    id: tuple[str, ...]
    images: tuple[str, ...]
    instruction: str = "instruction"
    made_from: tuple[str, ...] = ()
    target: str | None = None
    mask: str | None = None
    read_mask: Callable[..., Image.Image] = mask_from_cutout
    task_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Row], Row] = lambda row: row
    parts: tuple[str, ...] = ()
    language: str | None = None
    session: str | None = None
    streaming: bool = False


ADAPTERS: Mapping[str, Adapter] = MappingProxyType(
    {
        "gedit-bench": Adapter(
            repo="stepfun-ai/GEdit-Bench",
            splits=("train",),
            id=("instruction_language", "key"),
            images=("input_image_raw", "input_image"),
            task_type="task_type",
            metadata={"language": "instruction_language", "in_intersection": "Intersection_exist"},
            references={"input_image": "input_image"},
            language="instruction_language",
        ),
        "magicbrush": Adapter(
            repo="osunlp/MagicBrush",
            splits=("train", "dev"),
            id=("img_id", "turn_index"),
            images=("source_img",),
            target="target_img",
            mask="mask_img",
            metadata={"session": "img_id", "turn": "turn_index"},
            session="img_id",
            streaming=True,
        ),
        "emu-edit": Adapter(
            repo="facebook/emu_edit_test_set",
            splits=("test", "validation"),
            id=("task", "idx"),
            images=("image",),
            task_type="task",
            metadata={"source_caption": "input_caption", "target_caption": "output_caption", "hash": "hash"},
        ),
        "humanedit": Adapter(
            repo="BryanW/HumanEdit",
            splits=("train",),
            id=("EDITING_TYPE", "IMAGE_ID"),
            images=("INPUT_IMG",),
            instruction="EDITING_INSTRUCTION",
            target="OUTPUT_IMG",
            mask="MASK_IMG",
            task_type="EDITING_TYPE",
            metadata={
                "source_caption": "INPUT_CAPTION_BY_LLAMA",
                "target_caption": "OUTPUT_CAPTION_BY_LLAMA",
                "target_description": "OUTPUT_DESCRIPTION",
                "core": "CORE",
                "mask_flag": "MASK",
            },
            streaming=True,
        ),
        "omniedit": Adapter(
            repo="TIGER-Lab/OmniEdit-Filtered-1.2M",
            splits=("train", "dev"),
            id=("omni_edit_id",),
            images=("src_img",),
            target="edited_img",
            task_type="task",
            metadata={"other_wordings": "other_wordings"},
            made_from=("edited_prompt_list",),
            prepare=_omniedit,
            streaming=True,
        ),
        "pie-bench++": Adapter(
            repo="UB-CVML-Group/PIE_Bench_pp",
            splits=("V1",),
            id=("id",),
            images=("image",),
            mask="mask",
            read_mask=mask_from_runs,
            task_type="config",
            metadata={
                "source_caption": "source_prompt",
                "target_caption": "target_prompt",
                "edit_action": "edit_action",
                "aspect_mapping": "aspect_mapping",
                "blended_words": "blended_words",
            },
            made_from=("source_prompt", "target_prompt"),
            prepare=_pie_bench,
            parts=(
                "0_random_140",
                "1_change_object_80",
                "2_add_object_80",
                "3_delete_object_80",
                "4_change_attribute_content_40",
                "5_change_attribute_pose_40",
                "6_change_attribute_color_40",
                "7_change_attribute_material_40",
                "8_change_background_80",
                "9_change_style_80",
            ),
        ),
    }
)
