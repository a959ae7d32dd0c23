"""Everything that the template of a chain's page needs, for the server and for an export alike."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.errors import ConfigError, ImageError
from agentfly.images import ImageStore
from agentfly.images.png import png_size
from agentfly.viewer.chain.credit import Advantage, advantage_of
from agentfly.viewer.chain.setup import RunSetup, read_setup
from agentfly.viewer.chain.sight import Sight, find_sight, seen_size
from agentfly.viewer.chain.tokens import TokenStream, TurnTokens, advantage_shade, token_stream
from agentfly.viewer.chain.view import ChainView, Shot, TurnView, view_chain
from agentfly.viewer.chain.vocabulary import find_vocabulary
from agentfly.viewer.index import Row
from agentfly.viewer.opened import OpenRun

logger = logging.getLogger(__name__)

# Of one page: what follows is asked for when somebody comes there.
_MOST_TOKENS, _MOST_TURNS = 2500, 30
_NOT_KEPT: Mapping[str, str] = {
    "training": "Training keeps them with agentfly.images, which is on unless it is set to false.",
    "quickstart": "The quickstart keeps those of some tasks of each evaluation.",
}
_BEYOND = "The folder was full: agentfly.images.max_gb is its limit."
_NOT_THERE = "They belong into the folder images/ beside trajectories.jsonl: put them back, or run the chain again."


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image beside its pixels.

    Attributes:
        kept: its file is there.
        size: width and height in pixels.
        tokens: placeholders of the policy, None where they are not known.
        seen: width and height at which the policy was shown it.
    """

    kept: bool = False
    size: tuple[int, int] | None = None
    tokens: int | None = None
    seen: tuple[int, int] | None = None


class AllFacts(dict[str, ImageFacts]):
    """Facts by handle; an image that nobody asked about was not kept."""

    def __missing__(self, handle: str) -> ImageFacts:
        return ImageFacts()


@dataclass(frozen=True)
class ShownTurn:
    """A turn with its tokens and its advantage.

    Attributes:
        view: the turn.
        tokens: None where the chain has none.
        advantage: None where it is not known.
        shade: of the advantage.
        ends: the chain ended with it.
    """

    view: TurnView
    tokens: TurnTokens | None
    advantage: float | None
    shade: str
    ends: bool


@dataclass(frozen=True)
class ShownChain:
    """A chain as its page shows it.

    Attributes:
        row: in the index.
        view: of its line.
        turns: with tokens and advantages.
        inline: number of the turns that are in the page from the start.
        stream: tokens; None where the chain has none.
        tokenizer: where the texts of tokens are from, or why there are none.
        readable: tokens have texts.
        advantage: see `Advantage`.
        setup: of the run.
        facts: of its images.
        not_kept: a sentence on images that are missing; "" where all are there.
        sight: the reason for which the resolution of the policy is not known; "" where it is, or there is no image.
    """

    row: Row
    view: ChainView
    turns: tuple[ShownTurn, ...]
    inline: int
    stream: TokenStream | None
    tokenizer: str
    readable: bool
    advantage: Advantage
    setup: RunSetup
    facts: Mapping[str, ImageFacts]
    not_kept: str
    sight: str


def show_chain(run: OpenRun, n: int, tokenizer: str | None, *, whole: bool = False) -> ShownChain:
    """Return what the page of a chain shows.

    Args:
        run: of the chain.
        n: number of the chain in the index.
        tokenizer: see `ViewerSettings.tokenizer`.
        whole: all turns are in the page, as in an export.

    Raises:
        KeyError: there is no such chain.
        ConfigError: its line cannot be read, or has values of other types than a trajectory has.
    """
    row, line, setup = run.index.row(n), run.index.line(n), read_setup(run.run)
    try:
        return _shown(run, row, line, setup, tokenizer, whole=whole)
    except (TypeError, AttributeError, ValueError) as fault:
        logger.warning("chain %d cannot be shown", n, exc_info=fault)
        raise ConfigError(
            f"the line of this chain has values of types that no trajectory has ({fault}): see its raw line"
        ) from fault


def _shown(
    run: OpenRun, row: Row, line: TrajectoryLine, setup: RunSetup, tokenizer: str | None, *, whole: bool
) -> ShownChain:
    view = view_chain(line)
    vocabulary, words = find_vocabulary(tokenizer, setup) if line.trajectory.tokens is not None else (None, "")
    stream = token_stream(line.trajectory, vocabulary)
    advantage = advantage_of(run.index, row, setup, view.reward.value, len(view.turns))
    sight = find_sight(setup.policies)
    facts = image_facts({*view.handles, *line.trajectory.images}, stream, run.images(row.part), sight)
    lost = any(not facts[handle].kept for handle in view.handles)
    reason = _NOT_KEPT.get(run.run.kind, _NOT_THERE) if line.images_kept else _BEYOND
    turns = tuple(_turns(view, stream, advantage))
    return ShownChain(
        row=row,
        view=view,
        turns=turns,
        inline=len(turns) if whole else _inline(turns),
        stream=stream,
        tokenizer=words,
        readable=vocabulary is not None and stream is not None,
        advantage=advantage,
        setup=setup,
        facts=facts,
        not_kept=reason if lost else "",
        sight="" if any(facts[handle].seen for handle in facts) else _blindness(stream, sight, facts),
    )


def image_facts(
    handles: Iterable[str], stream: TokenStream | None, images: ImageStore, sight: Sight | None
) -> Mapping[str, ImageFacts]:
    """Return what is known of images, by handle.

    Args:
        handles: of the images; those that are no handles have no facts.
        stream: of the chain, which knows how many tokens each image had.
        images: of the run.
        sight: of the policy.
    """
    found = AllFacts()
    for handle in handles:
        try:
            path = images.path(handle)
        except ImageError:
            continue
        size = None if path is None else png_size(path)
        tokens = None if stream is None else stream.lengths.get(handle)
        seen = seen_size(sight, size, tokens) if tokens is not None else None
        found[handle] = ImageFacts(size is not None, size, tokens, seen)
    return found


def shots_of(shown: ShownChain) -> list[tuple[str, Shot]]:
    """Return the images at the top of a page with their labels."""
    view = shown.view
    labels = ["Source"] if len(view.images) == 1 else [f"Image {place}" for place in range(1, len(view.images) + 1)]
    found = list(zip(labels, view.images, strict=True))
    for label, shot in (("Target", view.target), ("Mask", view.mask)):
        found += [(label, shot)] if shot is not None else []
    return found


def _turns(view: ChainView, stream: TokenStream | None, advantage: Advantage) -> Iterable[ShownTurn]:
    for place, turn in enumerate(view.turns):
        tokens = stream.turns[place] if stream is not None and place < len(stream.turns) else None
        value = advantage.by_turn[place] if place < len(advantage.by_turn) else None
        yield ShownTurn(turn, tokens, value, advantage_shade(value), place == len(view.turns) - 1)


def _blindness(stream: TokenStream | None, sight: Sight | None, facts: Mapping[str, ImageFacts]) -> str:
    """Return the reason for which it is not known at which resolution the policy was shown images."""
    if stream is None or not stream.lengths:
        return ""
    if sight is None:
        return "the settings of its image processor are not on this machine"
    if not any(facts[handle].kept for handle in stream.lengths):
        return "they were not kept"
    return "the settings of its image processor give other numbers of tokens"


def _inline(turns: tuple[ShownTurn, ...]) -> int:
    tokens = 0
    for place, turn in enumerate(turns[:_MOST_TURNS]):
        tokens += len(turn.tokens.sampled) if turn.tokens is not None else 0
        if tokens > _MOST_TOKENS and place:
            return place
    return min(len(turns), _MOST_TURNS)
