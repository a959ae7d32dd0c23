"""KRIS-Bench (Wu et al. 2025, arXiv:2505.16707) by GPT-4o, as the `metrics_*.py` of mercurystraw/Kris_Bench do.

Three requests a sample: consistency, instruction following and quality, each from 1 to 5. In the ten categories of
knowledge, the second one also gives knowledge plausibility. A sample's score is the mean of its numbers, and
`100 * (mean - 1) / 4` is averaged over the samples of a dimension, of a type of knowledge, and of all. The repository
has no script for these averages: they follow the tables of the paper.

Two names of categories in the public scripts are older than those of the published data. As meant there,
`viewpoint_change` is judged with its ground truth, and `anomaly_correction` with its explanation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from PIL import Image

from agentfly.errors import EvaluatorError, shortened
from agentfly.evaluation.protocols.base import (
    Ask,
    Encoding,
    JudgedProtocol,
    Measure,
    Metadata,
    PromptFile,
    Ratings,
    Row,
    Split,
    aspect,
    groups_of,
    over_tasks,
)
from agentfly.evaluation.protocols.prompts import fill
from agentfly.evaluators import EditSample
from agentfly.evaluators.judge.replies import BrokenReply
from agentfly.images import on_white

_PARTS = ("consistency", "instruction", "quality", "knowledge")
_VIEW, _ANOMALY, _MULTI, _TEMPORAL = (
    "viewpoint_change",
    "anomaly_correction",
    "multi-element_composition",
    "temporal_prediction",
)
_KNOWLEDGE = frozenset(
    (
        *("abstract_reasoning", "mathematics", "practical_knowledge", "medicine", "rule-based_reasoning"),
        *("biology", "geography", "chemistry", "humanities", "physics"),
    )
)
# Type of knowledge and dimension of each category, as in table 1 of the paper.
_DIMENSIONS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("factual", "attribute perception"): (
        *("count_change", "color_change", "size_adjustment", "part_completion", _ANOMALY),
    ),
    ("factual", "spatial perception"): ("position_movement", _VIEW),
    ("factual", "temporal prediction"): (_TEMPORAL,),
    ("conceptual", "social science"): ("practical_knowledge", "humanities"),
    ("conceptual", "natural science"): (*("biology", "chemistry", "geography", "mathematics", "medicine", "physics"),),
    ("procedural", "logical reasoning"): ("abstract_reasoning", "rule-based_reasoning"),
    ("procedural", "instruction decomposition"): ("multi-instruction_execution", _MULTI),
}
_CATEGORIES = tuple(category for categories in _DIMENSIONS.values() for category in categories)
_FRAME = re.compile(r"(\d+)-(\d+)")
_FALLBACKS = (r"([1-5])\s*/\s*5", r"([1-5])\s+out\s+of\s+5", r"\b([1-5])\b")
_FILES = (
    PromptFile(
        "utils/prompts.py",
        (
            *("prompt_consist", "prompt_quality", "prompt_instruction_following"),
            *("prompt_abnormal_instruction_following", "prompt_dual_evaluation", "prompt_view_instruction_following"),
            *("prompt_consist_multi", "prompt_instruction_multi"),
            *("prompt_consist_temporal", "prompt_instruction_temporal"),
        ),
    ),
    PromptFile("metrics_view_change.py", labels={"evaluate_with_gpt": ("original", "edited", "truth")}),
    PromptFile(
        "metrics_multi_element.py",
        labels={"evaluate_multi_element_with_gpt": ("reference", "predicted"), "evaluate_with_gpt": ("alone",)},
    ),
    PromptFile("metrics_temporal_prediction.py", labels={"evaluate_temporal_with_gpt": ("frame",)}),
)

Content = tuple[str | Image.Image, ...]


def asks(sample: EditSample, result: Image.Image, prompts: Mapping[str, str]) -> list[Ask]:
    """Return the three requests for a sample.

    Raises:
        EvaluatorError: the sample is of no category of the benchmark, or its ground truth is missing.
    """
    category = str(sample.metadata.get("category", ""))
    if category not in _CATEGORIES:
        raise EvaluatorError(f"KRIS-Bench has no category {shortened(category)!r}")
    values = {"instruct": sample.instruction, "explanation": str(sample.metadata.get("explanation", ""))}
    images = [on_white(image) for image in sample.sources or (sample.source,)]
    consistency, instruction, alone = "prompt_consist", "prompt_instruction_following", "edited"
    shown: Content = (prompts["original"], images[0], prompts["edited"], result)
    seen = shown
    if category == _TEMPORAL:
        consistency, instruction, alone = "prompt_consist_temporal", "prompt_instruction_temporal", "alone"
        number, shown = _frames(sample.metadata, images, result, prompts["frame"])
        seen, values["N"] = shown, str(number)
    elif category == _MULTI:
        consistency, instruction, alone = "prompt_consist_multi", "prompt_instruction_multi", "alone"
        named = enumerate(images, 1)
        parts = [part for idx, image in named for part in (fill(prompts["reference"], {"idx": str(idx)}), image)]
        seen = shown = (*parts, prompts["predicted"], result)
    elif category == _VIEW:
        instruction = "prompt_view_instruction_following"
        if "gt_img" not in sample.references:
            raise EvaluatorError("the task's gt_img is not among the benchmark's files: unpack all of its images")
        seen = (*shown, prompts["truth"], on_white(sample.references["gt_img"]))
    elif category == _ANOMALY:
        instruction = "prompt_abnormal_instruction_following"
    elif category in _KNOWLEDGE:
        instruction = "prompt_dual_evaluation"
    read_second = read_dual if category in _KNOWLEDGE else _reader("instruction")
    return [
        Ask((fill(prompts[consistency], values), *shown), _reader("consistency")),
        Ask((fill(prompts[instruction], values), *seen), read_second),
        # Sent as it is: the authors fill nothing in.
        Ask((prompts["prompt_quality"], prompts[alone], result), _reader("quality")),
    ]


def _frames(metadata: Metadata, images: Sequence[Image.Image], result: Image.Image, label: str) -> tuple[int, Content]:
    """Return the number of the predicted frame, and all frames in their order, each behind its label."""
    names = metadata.get("images")
    matches = [_FRAME.search(str(name)) for name in names] if isinstance(names, (list, tuple)) else []
    numbers = [int(match[2]) for match in matches if match]
    if len(numbers) != len(images):
        raise EvaluatorError("the names of the task's frames have no numbers, such as 7-2.jpg")
    missing = sorted({1, 2, 3, 4} - set(numbers))
    predicted = missing[0] if len(missing) == 1 else max(numbers) + 1
    frames = [(number, "Reference", image) for number, image in zip(numbers, images, strict=True)]
    frames = sorted([*frames, (predicted, "Generated", result)], key=lambda frame: frame[0])
    parts: list[str | Image.Image] = []
    for number, kind, image in frames:
        parts += [fill(label, {"frame_num": str(number), "frame_type": kind}), image]
    return predicted, tuple(parts)


def _reader(part: str) -> Callable[[str], Ratings]:
    return lambda text: {part: read_number(text, f"{part}_score")}


def read_number(text: str, key: str) -> float:
    """Return the number from 1 to 5 of a key: in a JSON object, behind the key's name, as "4/5", or the first one.

    Args:
        text: the whole reply.
        key: such as "quality_score".

    Raises:
        BrokenReply: there is none.
    """
    number = _whole(_object(text, key).get(key))
    words = key.replace("_", r"[_\s]*")
    for pattern in (rf"{words}\s*[:：]?\s*([1-5])", *_FALLBACKS):
        match = re.search(pattern, text, re.IGNORECASE) if number is None else None
        number = int(match[1]) if match else number
    return _checked(number, key, text)


def read_dual(text: str) -> Ratings:
    """Return the numbers for instruction and knowledge: of a JSON object, or behind their names.

    Raises:
        BrokenReply: one of them is missing.
    """
    found = _object(text, "instruction_score")
    ratings = {}
    for part in ("instruction", "knowledge"):
        number = _whole(found.get(f"{part}_score"))
        if not found:
            match = re.search(rf"{part}[_\s]*score\s*[:：]\s*([1-5])", text, re.IGNORECASE)
            number = int(match[1]) if match else None
        ratings[part] = _checked(number, f"{part}_score", text)
    return ratings


def _object(text: str, key: str) -> Mapping[str, object]:
    """Return the first JSON object without inner braces that has a key, an empty one where there is none."""
    match = re.search(r"\{[^{}]*" + re.escape(key) + r"[^{}]*\}", text)
    try:
        found = json.loads(match[0]) if match else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _whole(value: object) -> int | None:
    try:
        return int(value) if isinstance(value, (int, float, str)) else None
    except (ValueError, OverflowError):
        return None


def _checked(number: int | None, key: str, text: str) -> float:
    if number is None or not 1 <= number <= 5:
        raise BrokenReply(f"no {key} from 1 to 5 in the reply {shortened(text, 120)!r}")
    return float(number)


def score(ratings: Ratings, metadata: Metadata) -> tuple[float, dict[str, float]]:
    """Return 100 times the mean share of the numbers' scale, and the shares."""
    shares = {part: (number - 1) / 4 for part, number in ratings.items()}
    mean = sum(shares.values()) / len(shares)
    return 100.0 * mean, {"mean": mean, **shares}


def lowest(metadata: Metadata) -> Ratings:
    """Return the lowest number of each part that a task is judged by."""
    parts = _PARTS if metadata.get("category") in _KNOWLEDGE else _PARTS[:3]
    return dict.fromkeys(parts, 1.0)


def measures(rows: Sequence[Row]) -> Iterator[Measure]:
    """Yield the mean of all samples, of the types of knowledge, the dimensions, the parts and the categories."""
    mean = aspect("mean", 100.0)
    groups = groups_of(rows)
    yield over_tasks(rows, "overall", mean)
    for kind in dict.fromkeys(kind for kind, _ in _DIMENSIONS):
        yield from _some(
            groups, f"{kind} knowledge", [c for (of, _), cs in _DIMENSIONS.items() if of == kind for c in cs]
        )
    for (_, dimension), categories in _DIMENSIONS.items():
        yield from _some(groups, dimension, categories)
    for part in _PARTS:
        if any(part in row.aspects for row in rows):
            yield over_tasks(rows, part, aspect(part, 100.0))
    for group, those in groups.items():
        yield over_tasks(those, "mean", mean, group)


def _some(groups: Mapping[str, Sequence[Row]], name: str, categories: Sequence[str]) -> Iterator[Measure]:
    rows = [row for category in categories for row in groups.get(category, ())]
    if rows:
        yield over_tasks(rows, name, aspect("mean", 100.0))


def encoding(metadata: Metadata) -> Encoding:
    """Return the form of the images: the authors send frames as JPEG of quality 85, other images as their files."""
    return Encoding("jpeg", quality=85) if metadata.get("category") == _TEMPORAL else Encoding("png")


KRIS = JudgedProtocol(
    name="kris",
    title="KRIS-Bench",
    repository="mercurystraw/Kris_Bench",
    commit="9502ee30e121de71fce269b3fd65c59cc144da8e",
    data="kris",
    splits={
        "all": Split(sizes=(1267,), prompts=_FILES),
        **{category: Split(data=category, prompts=_FILES) for category in _CATEGORIES},
    },
    measures=measures,
    decimals=2,
    note="From 0 to 100: 1 to 5 of the judge, as 100 (n - 1) / 4; means over samples.",
    judge={"model": "gpt-4o", "max_tokens": 1000, "temperature": None},
    asks=asks,
    score=score,
    lowest=lowest,
    encoding=encoding,
)
