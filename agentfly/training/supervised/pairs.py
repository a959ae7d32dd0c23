"""Preference pairs from ranked chains, in the form in which TRL's `DPOTrainer` takes them.

Chains of one prompt are paired, the better with the worse. TRL takes images in the prompt alone, and every turn after
the first differs in its images once an edit differs. So a pair is one turn: the first in which the two chains differ,
after a conversation that both had in common. Texts are decoded from the recorded ids with their special tokens, and a
pair is left out unless the tokenizer makes the same ids of them again: what is trained on is what was sampled.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from agentfly.agents import Trajectory
from agentfly.agents.trajectory_file import FILE_NAME, TrajectoryLine, image_folder, read_trajectories
from agentfly.errors import ConfigError, ImageError, require
from agentfly.evaluation.hub.shards import Shards
from agentfly.files import check_replaceable, write_text
from agentfly.images import ImageStore, encode_image
from agentfly.templates import ChatCodec

if TYPE_CHECKING:
    import datasets

MARKER = "agentfly_pairs.json"
_SHARD_BYTES = 500 * 1000 * 1000
_STORE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class PairExport:
    """Source and options of an export of pairs.

    Attributes:
        source: folder of a run, or its file of trajectories.
        out: the new folder; an earlier export there is replaced.
        model: folder or hub name of the policy that sampled the chains.
        template: chat template by name or path, where the policy has none of its own.
        min_gap: points (0 to 100) by which the better chain's score must be higher.
        per_group: pairs of one prompt at most: the best with the worst, the second best with the second worst, ….
    """

    source: Path
    out: Path
    model: str
    template: str | None = None
    min_gap: float = 10.0
    per_group: int = 1


@dataclass(frozen=True)
class PairResult:
    """The written folder, the number of its pairs, and the numbers of those left out by reason."""

    folder: Path
    pairs: int
    left_out: Mapping[str, int]


def export_pairs(request: PairExport) -> PairResult:
    """Write the pairs of a run as parquet files with images.

    Columns: `prompt`, `chosen` and `rejected` are texts with the special tokens of the chat template, `images` those of
    the prompt in order. `score_chosen`, `score_rejected`, `turn` (from 0), `task` and `step` say where a pair is from.

    Raises:
        ConfigError: there are no trajectories, no pair is left, or `out` holds something else.
        MissingExtraError: `datasets` or transformers is not installed.
    """
    require("datasets", "data pairs", "data")
    path = request.source / FILE_NAME if request.source.is_dir() else request.source
    out = request.out.resolve()
    check_replaceable(out, MARKER, "folder of exported pairs")
    left_out: Counter[str] = Counter()
    chosen = _choose(path, request, left_out)
    codec, store = (
        ChatCodec.from_pretrained(request.model, request.template),
        ImageStore(image_folder(path), max_bytes=_STORE_BYTES),
    )
    half = out.with_name(f".{out.name[:100]}.{uuid4().hex}.pairs")
    try:
        with Shards(half / "data", _features(), _SHARD_BYTES) as shards:
            for better, worse in _read(path, chosen):
                try:
                    shards.add("train", pair_of(better, worse, codec, store))
                except _Unusable as fault:
                    left_out[str(fault)] += 1
                except ImageError:
                    left_out["without their images"] += 1
        pairs = sum(size.rows for size in shards.sizes.values())
        if not pairs:
            reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "no chains"
            raise ConfigError(f"no pair of {str(path)!r} is left: {reasons}")
        facts = {"format": "agentfly.pairs/1", "pairs": pairs, "left_out": dict(left_out), "model": request.model}
        write_text(half / MARKER, json.dumps(facts, indent=2) + "\n")
        shutil.rmtree(out, ignore_errors=True)
        half.rename(out)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return PairResult(request.out, pairs, dict(left_out))


class _Unusable(Exception):
    """The reason for which two chains make no pair, as it is counted."""


def pair_of(better: TrajectoryLine, worse: TrajectoryLine, codec: ChatCodec, store: ImageStore) -> dict[str, object]:
    """Return the row of two chains of one prompt.

    Args:
        better, worse: lines with token ids.
        codec: of the policy that sampled them.
        store: the images that the lines name.

    Raises:
        ImageError: an image is missing or damaged.
    """
    good, bad = better.trajectory, worse.trajectory
    place = fork(good, bad)
    assert good.tokens is not None
    assert bad.tokens is not None
    turn, other = good.turns[place], bad.turns[place]
    sampled, rejected = (
        good.tokens.response_ids[turn.start : turn.end],
        bad.tokens.response_ids[other.start : other.end],
    )
    if codec.end_of(sampled) is None:
        raise _Unusable("whose better turn was cut by a limit")
    ids = good.tokens.prompt_ids + good.tokens.response_ids[: turn.start]
    images = _before(good, place)
    collapsed = codec.collapse(ids, images, store.get)
    texts = [str(codec.tokenizer.decode(each, skip_special_tokens=False)) for each in (collapsed, sampled, rejected)]
    for text, wanted in zip(texts, (collapsed, sampled, rejected), strict=True):
        if list(codec.tokenizer(text, add_special_tokens=False)["input_ids"]) != list(wanted):
            raise _Unusable("whose text has other tokens than were sampled")
    return {
        "images": [{"bytes": encode_image(store.get(handle)), "path": None} for handle in images],
        "prompt": texts[0],
        "chosen": texts[1],
        "rejected": texts[2],
        "score_chosen": good.score,
        "score_rejected": bad.score,
        "turn": place,
        "task": better.described_task().id,
        "step": better.step,
    }


def fork(better: Trajectory, worse: Trajectory) -> int:
    """Return the number of the first turn in which two chains differ, after all the same.

    Raises:
        _Unusable: their conversations were not the same before it, or they sampled the same.
    """
    one, other = better.tokens, worse.tokens
    assert one is not None
    assert other is not None
    for place, (mine, yours) in enumerate(zip(better.turns, worse.turns, strict=False)):
        known = (
            one.prompt_ids == other.prompt_ids and one.response_ids[: mine.start] == other.response_ids[: yours.start]
        )
        if not known or _before(better, place) != _before(worse, place):
            raise _Unusable("whose conversations differ before their turns do")
        if one.response_ids[mine.start : mine.end] != other.response_ids[yours.start : yours.end]:
            return place
    raise _Unusable("whose turns are the same")


def _before(trajectory: Trajectory, turn: int) -> list[str]:
    """Return the images of the conversation before a turn."""
    # The prompt may have turns of an earlier conversation.
    spoken = [place for place, message in enumerate(trajectory.messages) if message.role == "assistant"]
    end = spoken[len(spoken) - len(trajectory.turns) + turn]
    return [handle for message in trajectory.messages[:end] for handle in message.images]


def _choose(path: Path, request: PairExport, left_out: Counter[str]) -> list[tuple[int, int]]:
    """Return the line numbers of the pairs, the better first."""
    if not path.is_file():
        raise ConfigError(f"there is no {FILE_NAME} at {str(request.source)!r}: name the folder of a run, or the file")
    groups: defaultdict[tuple[int | None, str], list[tuple[float, int]]] = defaultdict(list)
    for number, line in read_trajectories(path):
        if reason := _refused(line):
            left_out[reason] += 1
        else:
            assert line.trajectory.score is not None
            groups[line.step, line.trajectory.group_id].append((line.trajectory.score, number))
    found = []
    for ranked in groups.values():
        ranked.sort(key=lambda chain: (-chain[0], chain[1]))
        count = min(request.per_group, len(ranked) // 2)
        ends = [(ranked[place], ranked[-1 - place]) for place in range(count)]
        good = [(best[1], worst[1]) for best, worst in ends if best[0] - worst[0] >= request.min_gap]
        left_out["groups without a pair that far apart"] += not good
        found += good
    left_out += Counter()  # drops the reasons of none
    return found


def _refused(line: TrajectoryLine) -> str | None:
    """Return the reason for which a chain is in no pair; None if it may be."""
    trajectory = line.trajectory
    if line.validate:
        return "chains of a validation"
    if trajectory.score is None or (trajectory.stop_reason is not None and trajectory.stop_reason.failed):
        return "chains without a score, or stopped by a fault"
    if trajectory.tokens is None:
        return "chains without token ids"
    return None


def _read(path: Path, chosen: Sequence[tuple[int, int]]) -> Iterator[tuple[TrajectoryLine, TrajectoryLine]]:
    """Yield the lines of the pairs, each as soon as both are read."""
    partner = dict(chosen) | {worse: better for better, worse in chosen}
    better_ones, waiting = {better for better, _ in chosen}, dict[int, TrajectoryLine]()
    for number, line in read_trajectories(path):
        if number not in partner:
            continue
        other = waiting.pop(partner[number], None)
        if other is None:
            waiting[number] = line
        else:
            yield (line, other) if number in better_ones else (other, line)


def _features() -> datasets.Features:
    from datasets import Features, Image, List, Value

    text, real = Value("string"), Value("float64")
    scores = {"score_chosen": real, "score_rejected": real}
    where = {"turn": Value("int32"), "task": text, "step": Value("int64")}
    return Features({"images": List(Image()), "prompt": text, "chosen": text, "rejected": text, **scores, **where})
