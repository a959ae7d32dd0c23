"""ImgEdit-Bench (Ye et al. 2025, arXiv:2505.20275) by GPT-4o, as `Benchmark/` of PKU-YuanGroup/ImgEdit does.

One request a sample, with the prompt of its type, both images as PNG. The score is the mean, rounded to two places, of
the numbers from 1 to 5 that stand behind ": " at the end of a line. The authors' scripts average each type ("basic") or
all samples ("uge"), again rounded to two places. "overall" is the mean of the types. The multi-turn suite is judged by
people and has no protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
    over_groups,
    over_tasks,
)
from agentfly.evaluators import EditSample
from agentfly.evaluators.judge.replies import BrokenReply
from agentfly.images import on_white

_LOWEST, _SPAN = 1.0, 4.0
_UGE = "prompt"


def asks(sample: EditSample, result: Image.Image, prompts: Mapping[str, str]) -> list[Ask]:
    """Return the request for a sample."""
    kind = str(sample.metadata.get("original_task_type") or _UGE)
    if kind not in prompts:
        raise EvaluatorError(f"the authors' prompts have none for the type {shortened(kind)!r}")
    words = prompts[kind].replace("<edit_prompt>", sample.instruction)
    return [Ask((words, on_white(sample.source), result), lambda text: {"score": read_average(text)})]


def read_average(text: str) -> float:
    """Return the mean, rounded to two places, of the numbers behind ": " at the ends of lines.

    Raises:
        BrokenReply: there is none, or one is not from 1 to 5.
    """
    parts = [line.strip().split(": ") for line in text.splitlines()]
    numbers = [int(part[1]) for part in parts if len(part) == 2 and part[1].isdecimal()]
    if not numbers:
        raise BrokenReply(f"no line ends with a score in the reply {shortened(text, 120)!r}")
    if not all(1 <= number <= 5 for number in numbers):
        raise BrokenReply(f"a score is not from 1 to 5 in the reply {shortened(text, 120)!r}")
    return round(sum(numbers) / len(numbers), 2)


def score(ratings: Ratings, metadata: Metadata) -> tuple[float, dict[str, float]]:
    """Return the score as a share of its scale, times 100 and as it is."""
    share = (ratings["score"] - _LOWEST) / _SPAN
    return 100.0 * share, {"score": share}


def measures(rows: Sequence[Row]) -> Iterator[Measure]:
    """Yield the mean of the types and of all samples, then the types."""
    of = aspect("score", _SPAN, _LOWEST)
    groups = groups_of(rows)
    if len(groups) > 1:
        yield over_groups(rows, "overall", of)
    yield over_tasks(rows, "mean of all samples", of)
    for group, those in groups.items():
        yield over_tasks(those, "score", of, group)


IMGEDIT = JudgedProtocol(
    name="imgedit",
    title="ImgEdit-Bench",
    repository="PKU-YuanGroup/ImgEdit",
    commit="547185d12c08267a862b94248576e1746e479937",
    data="imgedit",
    splits={
        "basic": Split("basic", sizes=(737,), prompts=(PromptFile("Benchmark/Basic/prompts.json"),)),
        "uge": Split("uge", sizes=(47,), prompts=(PromptFile("Benchmark/UGE/UGE_bench.py", (_UGE,)),)),
    },
    measures=measures,
    decimals=2,
    note="From 1 to 5; overall is the mean of the types.",
    judge={"model": "gpt-4o", "max_tokens": None, "temperature": None},
    asks=asks,
    score=score,
    lowest=lambda metadata: {"score": _LOWEST},
    encoding=lambda metadata: Encoding("png"),
)
