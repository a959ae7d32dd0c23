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
# Actions of the families in which looking or retouching pays.
_MORE_VERBS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "until": tuple(f"{verb} the smallest {{0}} until {{1}} left" for verb in ("remove", "erase", "delete")),
        "expose": ("make it {0} {1}", "turn it {0} {1}", "render it {0} {1}"),
        "match": ("make it as bright as {0}", "turn it as bright as {0}", "render it as bright as {0}"),
        "uncast": ("undo the {0} cast", "remove the {0} cast", "correct the {0} cast"),
    }
)
TINTS: tuple[str, ...] = ("reddish", "yellowish", "greenish", "bluish")
CASTS: tuple[str, ...] = ("warm", "cold", "green", "magenta")
LEFT: Mapping[int, str] = MappingProxyType({1: "one is", 2: "two are"})
SECOND_IMAGE = "the second image"
_MOST = ("the most common shape", "the most frequent shape")
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
        action: "remove" (of what), "replace" (what, by what), "recolour" (what, to which colour), "until" (of what, how
            many are left), "expose" (by how much, "brighter" or "darker"), "match" (with what) or "uncast" (which).
        *words: of the action, in that order.
    """
    verbs = _VERBS[action] if action in _VERBS else _MORE_VERBS[action]
    verb, frame = rng.choice(_combinations(split, len(verbs), len(_FRAMES), _HELDOUT_FRAMES))
    return _capital(_FRAMES[frame].format(verbs[verb].format(*words)))


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


def most_common(rng: random.Random) -> str:
    """Return words for the shape of which there are the most stickers."""
    return rng.choice(_MOST)


def stops(amount: float) -> str:
    """Return words for an exposure, such as "0.7 stops"."""
    return f"{abs(amount):.1f} {'stop' if abs(amount) == 1.0 else 'stops'}"


def vocabulary(more: bool = False) -> list[str]:
    """Return sentences with every word of every task, in a fixed order: enough to train a tokenizer on.

    Args:
        more: also of the families in which looking or retouching pays.
    """
    sentences = list(dict.fromkeys(_all_sentences()))
    known = [f"{colour} {shape}" for colour, shape in itertools.product(COLOURS, SHAPES)]
    return sentences + known + (list(dict.fromkeys(_more_sentences())) if more else [])


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


def _more_sentences() -> Iterator[str]:
    words: Mapping[str, list[tuple[str, ...]]] = {
        "until": [(f"{shape}s", left) for shape, left in itertools.product(SHAPES, LEFT.values())],
        "expose": [(stops(tenth / 10), way) for tenth in range(1, 16) for way in ("brighter", "darker")],
        "match": [(SECOND_IMAGE,)],
        "uncast": [(cast,) for cast in (*CASTS, "colour")],
    }
    for action, verbs in _MORE_VERBS.items():
        for verb, frame, given in itertools.product(verbs, _FRAMES, words[action]):
            yield _capital(frame.format(verb.format(*given)))
    for verb, frame in itertools.product(_VERBS["remove"], _FRAMES):
        for what in (*_MOST, *(f"the {tint} sticker" for tint in TINTS)):
            yield _capital(frame.format(verb.format(what)))


def _combinations(split: Split, rows: int, columns: int, heldout: frozenset[tuple[int, int]]) -> list[tuple[int, int]]:
    pairs = itertools.product(range(rows), range(columns))
    return [pair for pair in pairs if (pair in heldout) == (split == "heldout")]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
