"""The sentences of sticker tasks, combined from a small closed vocabulary.

A sentence is a verb in a frame. A third of the combinations is kept out of training, so that a held-out sentence is
new although each of its words is known. No sentence is longer than twelve words.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from agentfly.datasets.photos import SPLITS, Split
from agentfly.vision.shapes import COLOURS, SHAPES

PLACES: tuple[str, ...] = ("top left", "top right", "center", "bottom left", "bottom right")

# Words that people use and the classical detector does not know, each by the word that it knows.
SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        "red": "crimson",
        "green": "lime",
        "blue": "azure",
        "yellow": "golden",
        "purple": "violet",
        "orange": "amber",
        "circle": "disc",
        "square": "box",
    }
)

# Polite words come last. A place is thus always named at the same distance from the image before it, which lets a
# policy of a million parameters learn places in minutes.
_FRAMES = ("{}.", "{} now.", "{} please.", "{}, thanks.")
_VERBS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "remove": ("remove {0}", "erase {0}", "delete {0}"),
        "replace": ("replace {0} by {1}", "swap {0} for {1}", "exchange {0} with {1}"),
        "recolour": ("make {0} {1}", "paint {0} {1}", "turn {0} {1}"),
    }
)
_JOINTS = ("{} and {}.", "{}, then {}.")
_LARGEST = ("the largest sticker", "the biggest sticker")
# Pairs (verb, frame) and (first verb, second verb) of held-out sentences; training has every verb and frame.
_HELDOUT_FRAMES = frozenset({(0, 3), (1, 1), (2, 2)})
_HELDOUT_PAIRS = frozenset({(0, 1), (1, 2), (2, 0)})


def article(words: str) -> str:
    """Return words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def sentence(rng: random.Random, split: Split, action: str, *words: str) -> str:
    """Return one instruction.

    Args:
        rng: source of randomness.
        split: whose combinations to use.
        action: "remove" (of what), "replace" (what, by what) or "recolour" (what, to which colour).
        *words: of the action, in that order.
    """
    verb, frame = rng.choice(_combinations(split, len(_VERBS[action]), len(_FRAMES), _HELDOUT_FRAMES))
    return _capital(_FRAMES[frame].format(_VERBS[action][verb].format(*words)))


def double_sentence(
    rng: random.Random, split: Split, first: tuple[str, tuple[str, ...]], second: tuple[str, tuple[str, ...]]
) -> str:
    """Return two instructions in one sentence.

    Args:
        rng: source of randomness.
        split: whose combinations to use.
        first, second: action and its words, as in `sentence`; one is a removal and the other recolours.
    """
    one, two = rng.choice(_combinations(split, 3, 3, _HELDOUT_PAIRS))
    joint = rng.choice(_JOINTS)
    return _capital(joint.format(_VERBS[first[0]][one].format(*first[1]), _VERBS[second[0]][two].format(*second[1])))


def largest(rng: random.Random) -> str:
    """Return words for the largest sticker."""
    return rng.choice(_LARGEST)


def vocabulary() -> list[str]:
    """Return sentences with every word of every task, in a fixed order: enough to train a tokenizer on."""
    sentences = list(dict.fromkeys(_all_sentences()))
    known = [f"{colour} {shape}" for colour, shape in itertools.product(COLOURS, SHAPES)]
    return sentences + known


def _all_sentences() -> Iterator[str]:
    colours, shapes = itertools.cycle(COLOURS), itertools.cycle(SHAPES)
    plain = [f"the {colour} {shape}" for colour, shape in itertools.product(COLOURS, SHAPES)]
    said = [f"the {SYNONYMS[colour]} {shape}" for colour, shape in zip(COLOURS, SHAPES * 2, strict=False)]
    said += [f"the {colour} {SYNONYMS[shape]}" for colour, shape in zip(COLOURS, ("circle", "square"), strict=False)]
    things = itertools.cycle([*plain, *said, *(f"the sticker in the {place}" for place in PLACES), *_LARGEST])
    for split, action in itertools.product(SPLITS, _VERBS):
        for verb, frame in _combinations(split, len(_VERBS[action]), len(_FRAMES), _HELDOUT_FRAMES):
            for _ in range(len(COLOURS)):
                new = next(colours) if action == "recolour" else article(f"{next(colours)} {next(shapes)}")
                yield _capital(_FRAMES[frame].format(_VERBS[action][verb].format(next(things), new)))
    for joint, first, second in itertools.product(_JOINTS, _VERBS["remove"], _VERBS["recolour"]):
        yield _capital(joint.format(first.format(next(things)), second.format(next(things), next(colours))))
        yield _capital(joint.format(second.format(next(things), next(colours)), first.format(next(things))))


def _combinations(split: Split, rows: int, columns: int, heldout: frozenset[tuple[int, int]]) -> list[tuple[int, int]]:
    pairs = itertools.product(range(rows), range(columns))
    return [pair for pair in pairs if (pair in heldout) == (split == "heldout")]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
