"""GEdit-Bench (Liu et al. 2025, arXiv:2504.17761): VIEScore by GPT-4.1, as in stepfun-ai/Step1X-Edit.

Two requests a sample: semantics (source and result), two numbers from 0 to 10, and quality (result), two numbers. Of
each the smaller one counts, and `overall = sqrt(semantics * quality)`. The published average is the mean over the
eleven task types of the means over their samples. The judge sees `input_image` of the data set as the source, and the
result in the size of it, both as JPEG.

The authors' script asks again where it cannot read a reply, and then takes a random number. Here such a sample has no
score.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from PIL import Image

from agentfly.errors import shortened
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
    over_groups,
    over_tasks,
)
from agentfly.evaluators import EditSample
from agentfly.evaluators.judge.replies import BrokenReply
from agentfly.images import on_white
from agentfly.lenient_json import read_with_slips

_CONTEXT, _RULE = "_context_no_delimit", "_prompts_0shot_two_image_edit_rule"
_SEMANTICS, _QUALITY = "_prompts_0shot_tie_rule_SC", "_prompts_0shot_rule_PQ"
_DELIMITER = "||V^=^V||"
_HIGHEST = 10
_PAIR = re.compile(r"\[\d+, ?\d+\]")
_PARTS = (("semantics", 10.0), ("quality", 10.0), ("overall", 10.0))
_FILES = (PromptFile("GEdit-Bench/viescore/vie_prompts.py", (_CONTEXT, _RULE, _SEMANTICS, _QUALITY)),)


def asks(sample: EditSample, result: Image.Image, prompts: Mapping[str, str]) -> list[Ask]:
    """Return the two requests for a sample."""
    source = on_white(sample.references.get("input_image", sample.source))
    edited = result.resize(source.size)
    semantics = "\n".join((prompts[_CONTEXT], prompts[_RULE], prompts[_SEMANTICS]))
    quality = "\n".join((prompts[_CONTEXT], prompts[_QUALITY]))
    return [
        Ask(
            (semantics.replace("<instruction>", sample.instruction), source, edited),
            lambda text: {"semantics": min(read_scores(text))},
        ),
        Ask((quality, edited), lambda text: {"quality": min(read_scores(text))}),
    ]


def read_scores(text: str) -> list[float]:
    """Return the scores of a reply: those of its JSON object, a bare list of two, or a single number.

    Raises:
        BrokenReply: there are none, or one is not from 0 to 10.
    """
    if text.count(_DELIMITER) == 2:
        text = text.split(_DELIMITER)[1]
    start, end = text.find("{"), text.rfind("}")
    found: object = None
    if 0 <= start < end:
        found = _parsed(text[start : end + 1].replace("\n", ""))
        found = found.get("score") if isinstance(found, Mapping) else None
    elif listed := _PAIR.fullmatch(text[text.find("[") : text.rfind("]") + 1]):
        found = json.loads(listed[0])
    elif text.strip().isdecimal():
        found = int(text)
    given = found if isinstance(found, list) else [found]
    scores = [float(one) for one in given if isinstance(one, (int, float)) and not isinstance(one, bool)]
    if not given or len(scores) < len(given):
        raise BrokenReply(f"no list of scores in the reply {shortened(text, 120)!r}")
    if not all(0 <= score <= _HIGHEST for score in scores):
        raise BrokenReply(f"a score is not from 0 to {_HIGHEST} in the reply {shortened(text, 120)!r}")
    return scores


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        try:
            return read_with_slips(text)
        except ValueError as fault:
            raise BrokenReply(f"the JSON of the reply cannot be read: {shortened(text, 120)!r}") from fault


def score(ratings: Ratings, metadata: Metadata) -> tuple[float, dict[str, float]]:
    """Return 100 times the overall share, and the three shares."""
    semantics, quality = ratings["semantics"] / _HIGHEST, ratings["quality"] / _HIGHEST
    overall = math.sqrt(semantics * quality)
    return 100.0 * overall, {"semantics": semantics, "quality": quality, "overall": overall}


def measures(rows: Sequence[Row]) -> Iterator[Measure]:
    """Yield the averages over all samples and over the intersection of both languages, then the types."""
    intersection = [row for row in rows if row.metadata.get("in_intersection")]
    for name, scale in reversed(_PARTS):
        yield over_groups(rows, name, aspect(name, scale))
    for name, scale in reversed(_PARTS):
        if intersection:
            yield over_groups(intersection, f"{name}, intersection", aspect(name, scale))
    for group, those in groups_of(rows).items():
        for name, scale in reversed(_PARTS):
            yield over_tasks(those, name, aspect(name, scale), group)


GEDIT = JudgedProtocol(
    name="gedit",
    title="GEdit-Bench",
    repository="stepfun-ai/Step1X-Edit",
    commit="570eba6ebda0c45c013983a483afbf2fd12bfcbc",
    data="gedit-bench",
    splits={language: Split(options={"language": language}, sizes=(606,), prompts=_FILES) for language in ("en", "cn")},
    measures=measures,
    decimals=3,
    note="From 0 to 10; averages are means over the task types, as published.",
    judge={"model": "gpt-4.1", "max_tokens": 1400, "temperature": None},
    asks=asks,
    score=score,
    lowest=lambda metadata: {"semantics": 0.0, "quality": 0.0},
    encoding=lambda metadata: Encoding("jpeg"),
)
