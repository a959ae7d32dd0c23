"""RISEBench (Zhao et al. 2025, arXiv:2504.02826) by GPT-4.1, as `gpt_eval.py` of PhoenixZ810/RISEBench does.

Up to three requests a sample: consistency with the source, reasoning (the answer against its reference), and visual
plausibility, which logical tasks have not. Numbers are from 1 to 5; for logical tasks 0 or 1, which become 1 or 5. A
task is solved if all its numbers are 5, and accuracy, the published figure, is the share of solved tasks. Images are at
most 768 pixels wide and high, as JPEG.

    score = 0.3 consistency + 0.5 reasoning + 0.2 plausibility, for logical tasks 0.3 consistency + 0.7 reasoning,
            without consistency 0.8 reasoning + 0.2 plausibility; halved, but at least 1, if reasoning is 1

The authors' script takes the last form for every task that is not logical as soon as one entry of the data set has the
field `consistency_free`, because an absent value counts as true there. Accuracy is not affected. The figure "score"
follows the script.
"""

from __future__ import annotations

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
    groups_of,
    over_tasks,
)
from agentfly.evaluation.protocols.prompts import fill
from agentfly.evaluators import EditSample
from agentfly.evaluators.judge.replies import BrokenReply
from agentfly.images import on_white

_PARTS = ("reasoning", "consistency", "plausibility")
_PLAIN = "prompt_logical_img_wo_q"  # the authors fill nothing into this one
_LOGICAL, _SPATIAL = "logical_reasoning", "spatial_reasoning"
_NAMES = (
    *("prompt_consist", "prompt_reasoning", "prompt_reasoning_w_input", "prompt_generation"),
    *("prompt_spatial_ref", "prompt_spatial_ref_img", "prompt_spatial_ref_w_input", "prompt_spatial_qual"),
    *("prompt_spatial_cons", "prompt_logical_cons_ans", "prompt_logical_cons", "prompt_logical_txt"),
    *("prompt_logical_img", _PLAIN),
)
_FINAL = re.compile(r"\*?\*?Final Score\*?\*?:?\s*([\d*\s,\n]*)", re.IGNORECASE)
_FINALS = re.compile(r"\*?\*?Final Scores\*?\*?:?\s*([\d*\s,\n]*)", re.IGNORECASE)


def asks(sample: EditSample, result: Image.Image, prompts: Mapping[str, str]) -> list[Ask]:
    """Return the requests for a sample.

    Raises:
        EvaluatorError: the sample has neither a reference in words nor one as an image.
    """
    facts = sample.metadata
    category = str(facts.get("category", ""))
    named = {"temporal_reasoning": _general, "causal_reasoning": _general, _SPATIAL: _spatial, _LOGICAL: _logical}
    if category not in named:
        raise EvaluatorError(f"RISEBench has no category {shortened(category)!r}")
    consistency, reasoning, plausibility, image, shown = named[category](sample)
    values = {
        "instruct": sample.instruction,
        "reference": str(facts.get("reference_txt") or facts.get("reference", "")),
    }
    first = (on_white(image),)
    highest = 1 if category == _LOGICAL else 5
    words = prompts[reasoning] if reasoning == _PLAIN else fill(prompts[reasoning], values)
    found = [Ask((words, *(first if shown else ()), result), _reader("reasoning", highest))]
    if "consistency_free" not in facts:
        found.append(Ask((fill(prompts[consistency], values), *first, result), _reader("consistency", highest)))
    if plausibility is not None:
        # Sent as it is: the authors fill nothing in.
        found.append(Ask((prompts[plausibility], result), _reader("plausibility", highest)))
    return found


# Prompts of consistency, reasoning and plausibility; the image that the judge sees first; shown for reasoning, too.
_Plan = tuple[str, str, str | None, Image.Image, bool]


def _general(sample: EditSample) -> _Plan:
    shown = _has(sample, "reasoning_img")
    reasoning = "prompt_reasoning_w_input" if shown else "prompt_reasoning"
    _require(sample, "reference")
    return "prompt_consist", reasoning, "prompt_generation", sample.source, shown


def _spatial(sample: EditSample) -> _Plan:
    if _has(sample, "reference_img"):
        image = _reference(sample)
        return "prompt_spatial_cons", "prompt_spatial_ref_img", "prompt_spatial_qual", image, True
    _require(sample, "reference")
    shown = _has(sample, "reasoning_img")
    reasoning = "prompt_spatial_ref_w_input" if shown else "prompt_spatial_ref"
    return "prompt_spatial_cons", reasoning, "prompt_spatial_qual", sample.source, shown


def _logical(sample: EditSample) -> _Plan:
    if _has(sample, "reference_txt"):
        return "prompt_logical_cons_ans", "prompt_logical_txt", None, sample.source, False
    image = _reference(sample)
    # As in the script: one entry with this field decides for all of the data set.
    without = "reasoning_wo_ins" in _fields(sample.metadata)
    return "prompt_logical_cons", _PLAIN if without else "prompt_logical_img", None, image, True


def _has(sample: EditSample, name: str) -> bool:
    return name in sample.metadata


def _fields(metadata: Metadata) -> Sequence[str]:
    """Return the names of the fields that any entry of the data set has."""
    fields = metadata.get("fields")
    return [str(name) for name in fields] if isinstance(fields, (list, tuple)) else list(metadata)


def _require(sample: EditSample, name: str) -> None:
    if not _has(sample, name):
        raise EvaluatorError(f"the task has no {name}, which RISEBench judges it by")


def _reference(sample: EditSample) -> Image.Image:
    if "reference_img" not in sample.references:
        raise EvaluatorError("the task's reference_img is not among the benchmark's files: unpack all of its images")
    return sample.references["reference_img"]


def _reader(part: str, highest: int) -> Callable[[str], Ratings]:
    def read(text: str) -> Ratings:
        number = read_final(text)
        if highest == 1:
            return {part: 1.0 + 4.0 * min(number, 1)}
        if not 1 <= number <= highest:
            raise BrokenReply(f"the final score is {number}, which is not from 1 to {highest}")
        return {part: float(number)}

    return read


def read_final(text: str) -> int:
    """Return the number behind "Final Score", the first one where several stand there.

    Raises:
        BrokenReply: there is none.
    """
    for pattern in (_FINAL, _FINALS):
        for match in pattern.findall(text):
            numbers = re.findall(r"\d+", match.replace("\n", " "))
            if numbers:
                return int(numbers[0])
    raise BrokenReply(f"no final score in the reply {shortened(text, 120)!r}")


def score(ratings: Ratings, metadata: Metadata) -> tuple[float, dict[str, float]]:
    """Return 100 for a solved task and 0 for any other, with the share of each number's scale."""
    solved = float(all(number == 5 for number in ratings.values()))
    return 100.0 * solved, {"solved": solved, **{name: (number - 1) / 4 for name, number in ratings.items()}}


def lowest(metadata: Metadata) -> Ratings:
    """Return the lowest number of each part that a task is judged by."""
    logical, free = metadata.get("category") == _LOGICAL, "consistency_free" in metadata
    skipped = {"plausibility"} if logical else {"consistency"} if free else set()
    return {part: 1.0 for part in _PARTS if part not in skipped}


def weighted(aspects: Ratings, *, logical: bool, free: bool) -> float:
    """Return the weighted score from 1 to 5; see the formula of the module.

    Args:
        aspects: shares of the numbers' scale.
        logical: the task is logical.
        free: consistency does not count.
    """
    number = {part: 1 + 4 * aspects[part] for part in _PARTS if part in aspects}
    reasoning = number["reasoning"]
    if logical:
        total = 0.3 * number["consistency"] + 0.7 * reasoning
    elif free:
        total = 0.2 * number["plausibility"] + 0.8 * reasoning
    else:
        total = 0.3 * number["consistency"] + 0.5 * reasoning + 0.2 * number["plausibility"]
    return max(1.0, 0.5 * total) if reasoning == 1 else total


def measures(rows: Sequence[Row]) -> Iterator[Measure]:
    """Yield accuracy, the three parts and the score, over all samples and by category, in percent."""

    def percent(row: Row) -> float:
        # A value that is absent counts as true in the script, if any entry has the field.
        free = "consistency_free" in _fields(row.metadata) and bool(row.metadata.get("consistency_free", True))
        logical = row.metadata.get("category") == _LOGICAL
        return 25.0 * (weighted(row.aspects, logical=logical, free=free) - 1.0)

    groups = groups_of(rows)
    yield over_tasks(rows, "accuracy", _share("solved"))
    for group, those in groups.items():
        yield over_tasks(those, "accuracy", _share("solved"), group)
    for part in _PARTS:
        yield over_tasks(rows, part, _share(part))
    yield over_tasks(rows, "score", percent)
    for group, those in groups.items():
        for part in _PARTS:
            if any(part in row.aspects for row in those):
                yield over_tasks(those, part, _share(part), group)
        yield over_tasks(those, "score", percent, group)


def _share(name: str) -> Callable[[Row], float | None]:
    return lambda row: None if name not in row.aspects else 100.0 * row.aspects[name]


_FILES = (PromptFile("utils.py", _NAMES),)
RISEBENCH = JudgedProtocol(
    name="risebench",
    title="RISEBench",
    repository="PhoenixZ810/RISEBench",
    commit="5f226519b25c005bb32fb83864bbd1845ab85c23",
    data="risebench",
    splits={
        "all": Split(sizes=(360, 64), prompts=_FILES),
        **{
            name: Split(data=name, prompts=_FILES)
            for name in ("temporal_reasoning", "causal_reasoning", _SPATIAL, _LOGICAL)
        },
    },
    measures=measures,
    decimals=1,
    note="In percent; accuracy is the share of tasks whose numbers are all 5, the figure of the leaderboard.",
    judge={"model": "gpt-4.1-2025-04-14", "max_tokens": 4096, "temperature": 0.0},
    asks=asks,
    score=score,
    lowest=lowest,
    encoding=lambda metadata: Encoding("jpeg", longest=768, detail="high"),
)
