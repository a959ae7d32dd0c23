"""Rankings of the results of one task: the orders in which they are shown, the reply, and the shares of others beaten.

A judge that sees a list prefers some places of it. So the results are shown in several orders, each second one the
reverse of the one before, and each result has as many early places as late ones (permutation self-consistency,
arXiv:2310.07712; exchanging positions, arXiv:2305.17926).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np

from agentfly.evaluators.judge.replies import BrokenReply, Token, read_object
from agentfly.evaluators.judge.schemes import HONEST, JSON_ONLY, reply_schema

Block = list[int]


@dataclass(frozen=True)
class Ranked:
    """The judge's ranking of the results that one request showed.

    Attributes:
        tiers: places in the request, from 0, the best first; equally good ones share a tier.
        notes: a few words about each result, in the order of the request.
    """

    tiers: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RankQuestion:
    """The request to rank some results.

    Attributes:
        count: number of results that are shown.
        edits: the image before the edit is shown, too.
    """

    count: int
    edits: bool = True

    wanted: ClassVar[str] = "ranking"
    needs_logprobs: ClassVar[bool] = False

    def text(self, instruction: str, rubric: str = "") -> str:
        """Return the words of the request, which follow the images.

        Args:
            instruction: the request to the agent.
            rubric: criteria for the judge.
        """
        made = "are attempts to edit the image before by" if self.edits else "were made by"
        kept = ", leaves everything else as it was," if self.edits else ""
        parts = [
            f"The results 1 to {self.count} {made} the same instruction. Compare all of them with each other.",
            f"Instruction, between the lines:\n---\n{instruction.strip()}\n---",
            rubric,
            f"The better result does more of what was asked{kept} and looks more natural, in this order of importance. "
            "The order in which the results are shown means nothing.",
            "notes has a few words about each result, in the order shown. ranking has the numbers of all results, the "
            "best first, as a list of lists; results that are equally good stand in one list, and only those: "
            "[[2], [1, 4], [3]].",
            HONEST,
            JSON_ONLY.format(keys="notes, ranking"),
        ]
        return "\n\n".join(part for part in parts if part)

    def schema(self) -> dict[str, object]:
        """Return the reply's form; notes come first, so that the ranking follows reasons."""
        tier = {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": self.count}}
        notes = {"type": "array", "items": {"type": "string"}}
        return reply_schema("edit_ranking", {"notes": notes, "ranking": {"type": "array", "items": tier}})

    def read(self, text: str, tokens: Sequence[Token]) -> Ranked:
        """Return the ranking of a reply; see `JudgeForm.read`. A plain list of numbers has no ties."""
        item = read_object(text, {"ranking"})
        given = item["ranking"]
        if not isinstance(given, list):
            raise BrokenReply(f"the ranking is {type(given).__name__}, not a list")
        tiers = tuple(tuple(map(_number, tier if isinstance(tier, list) else [tier])) for tier in given)
        numbers = [number for tier in tiers for number in tier]
        if sorted(numbers) != list(range(1, self.count + 1)):
            raise BrokenReply(f"the ranking must have each of the numbers 1 to {self.count} once, and has {numbers}")
        # Notes are for people: none are better than those of other results.
        said = item.get("notes")
        notes = [note.strip() for note in said if isinstance(note, str)] if isinstance(said, list) else []
        whole = tuple(notes) if len(notes) == self.count else ("",) * self.count
        return Ranked(tuple(tuple(n - 1 for n in tier) for tier in tiers if tier), whole)


def _number(value: object) -> int:
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 8:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BrokenReply("the ranking has something that is no whole number")
    return value


def orders(count: int, passes: int, most: int, rng: random.Random) -> list[list[Block]]:
    """Return the orders in which results are shown: for each pass, the requests with their results in order.

    The results of a pass are dealt to as few requests as hold them, of nearly equal size. Each second pass has the
    places of the one before in reverse, and other results together where there are several requests.

    Args:
        count: number of results, at least 2.
        passes: times that every result is shown.
        most: results in one request at most, at least 2.
        rng: source of the shuffles.
    """
    found: list[list[Block]] = []
    requests = min(-(-count // most), count // 2)
    for number in range(passes):
        if number % 2 == 0:
            shuffled = rng.sample(range(count), count)
            found.append([shuffled[start::requests] for start in range(requests)])
        else:
            found.append(_reversed_places(found[-1], rng))
    return found


def _reversed_places(blocks: Sequence[Block], rng: random.Random) -> list[Block]:
    """Return blocks of the same sizes in which a result from a late place has an early one, and the other way round."""
    columns: list[Block] = []
    for place in range(len(blocks[0])):  # the first block is the longest
        column = [block[place] for block in blocks if place < len(block)]
        columns.append(rng.sample(column, len(column)))
    return [[column[n] for column in columns if n < len(column)][::-1] for n in range(len(blocks))]


def beaten(count: int, passes: Sequence[Sequence[tuple[Block, Ranked]]]) -> np.ndarray:
    """Return the share of the others of its request that each result beats in each pass; an equal one counts half.

        b_ik = (worse than i in its request + equal to i / 2) / (results of the request - 1)

    The mean over the passes is the normalised Borda count (de Borda 1781), which is the share of comparisons won that
    Pref-GRPO takes for a reward (arXiv:2508.20751).

    Args:
        count: number of results.
        passes: for each pass, its requests with their answers.

    Returns:
        (passes, results), 0 to 1.
    """
    shares = np.zeros((len(passes), count))
    for row, requests in zip(shares, passes, strict=True):
        for block, ranked in requests:
            below = len(block)
            for tier in ranked.tiers:
                below -= len(tier)
                for place in tier:
                    row[block[place]] = (below + (len(tier) - 1) / 2) / (len(block) - 1)
    return shares


def agreement(passes: Sequence[Sequence[tuple[Block, Ranked]]]) -> float | None:
    """Return how far the passes agree on the order of two results, from 0 (opposite) over 0.5 (chance) to 1.

        (1 + tau) / 2, with Kendall's tau (1938) over all pairs that two passes have shown in one request

    Args:
        passes: for each pass, its requests with their answers.

    Returns:
        None where no pair was shown twice.
    """
    signs = [_signs(requests) for requests in passes]
    products = [
        first[pair] * second[pair] for first, second in combinations(signs, 2) for pair in first.keys() & second.keys()
    ]
    return None if not products else (1 + sum(products) / len(products)) / 2


def _signs(requests: Sequence[tuple[Block, Ranked]]) -> dict[tuple[int, int], int]:
    """Return for each pair of results 1 if the first is the better one, -1 if the second is, and 0 for a tie."""
    found = {}
    for block, ranked in requests:
        tier_of = {block[place]: number for number, tier in enumerate(ranked.tiers) for place in tier}
        for one, other in combinations(sorted(block), 2):
            difference = tier_of[other] - tier_of[one]
            found[one, other] = (difference > 0) - (difference < 0)
    return found
