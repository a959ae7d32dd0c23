"""Texts that a model could write in order to break, or slow down, whoever reads them.

`UNITS` are repeated to any length, `WRAPS` are places that they stand in, and `FORMS` are those of whole calls. `TEXTS`
makes a text from a random source, `texts` is a Hypothesis strategy, and `hostile_texts` are all units in all places.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
Make = Callable[[Random], T]

WORDS = (
    "cat",
    "",
    " ",
    "\ud800",
    "\x1b[2J",
    "ä\u202e",
    "null",
    "None",
    '"}}',
    "</tool_call>",
    "[/cyan]",
    "img_1",
    "\x00",
)
TOOL_NAMES = ("give_answer", "qwen_edit_image", "auto_mask", "inpaint_image", "no_such_tool", "", "\ud800")


UNITS: dict[str, str] = {
    "objects that do not begin": '{"',
    "tags with a brace": "<tool_call>{",
    "tags with a quote": '<tool_call>{"',
    "tags with a name": '<tool_call>{"name": "e", "arguments": {"a": ',
    "tags": "<tool_call>",
    "closing tags": "</tool_call>",
    "whole calls": '<tool_call>{"name": "e", "arguments": {}}</tool_call>',
    "calls with a comma": '<tool_call>{"name": "e", "arguments": {"a": 1,}}</tool_call>',
    "calls with other quotes": "<tool_call>{'name': 'e', 'arguments': {'a': 'x}}</tool_call>",
    "calls without tags": '{"name": "e", "arguments": {}}\n',
    "open lists": "[ ",
    "open lists without space": "[",
    "open objects": "{ ",
    "nested objects": '{"a":',
    "empty objects": "{}",
    "listed objects": "{},",
    "lists in lists": "[[],",
    "numbers": "1,",
    "digits": "1",
    "quotes": '"',
    "quotes of another kind": "'",
    "curly quotes": "\u201c",
    "pairs of quotes": '"x" ',
    "backslashes": "\\",
    "escaped quotes": '\\"',
    "halves of surrogate pairs": "\\ud800",
    "backticks": "`",
    "fences": "```\n",
    "fences of JSON": "```json\n{",
    "fences of JSON in one line": '~~~json {"name": "e", "arguments": {',
    "two kinds of fences": "```~~~",
    "line ends": "\n",
    "spaces": " ",
    "names": 'name "name": ',
    "names and arguments": "arguments name:'",
    "thoughts": "<think></think>",
    "open thoughts": "<think>",
    "ends of thoughts": "</think>",
    "ends of thoughts in calls": '<tool_call>{"a": "</think>"}',
    "beginnings of thoughts in calls": '<tool_call>{"a": "<think>"}',
    "tags in strings": '{"a":"<tool_call>',
    "calls in Python": "f(a=\n",
    "other tags": "<tool_calls ",
    "other tags with space": "<tool_calls>\n",
    "tags of Mistral": "[TOOL_CALLS] ",
    "invocations": '<invoke name="e" ',
    "lists in lines": "\n[",
    "members in lines": '{"name":"e",\n',
    "actions": "Action: e\n",
    "letters": "\u00e9",
    "line ends of Windows": "\r\n",
    "strings": '","',
    "objects with other quotes": "{'a':",
}

WRAPS: dict[str, str] = {
    "alone": "{}",
    "in an open tag": "<tool_call>{}",
    "in a call": '<tool_call>{{"name": "e", "arguments": {{"a": {}}}}}</tool_call>',
    "in a string": '<tool_call>{{"name": "e", "arguments": {{"a": "{}"}}}}</tool_call>',
    "without a tag": '{{"name": "e", "arguments": {{{}',
    "in a list": '[{{"name": "e", "arguments": {{}}}},{}]',
    "in a fence": '```json\n{{"name": "e", "arguments": {{{}',
    "between thoughts": "</think>{}<think>",
}


# Places of whole calls beside those of `WRAPS`.
FORMS = (
    "<tool_call>{}</tool_call>",
    "```json\n{}\n```",
    "```JSON\r\n{}\r\n```",
    "~~~json\n{}\n~~~",
    "<think>Maybe {}</think>done",
    "Maybe <tool_call>{}</tool_call></think>",
    "<tool_calls>{}</tool_calls>",
    "[TOOL_CALLS][{}]",
)

FIELDS = (
    "image_id",
    "prompt",
    "text_prompt",
    "final_image_id",
    "mask_id",
    "seed",
    "box_threshold",
    "x",
    "",
)
# Words in place of a value that only a lenient reader takes.
_BARE = ("img_2", "1e999", "9" * 400, "9" * 5000, "NaN", "''", "-1", "None or 0.3", "1_000")


def nested(random: Random) -> object:
    """Return lists or objects in each other."""
    value: object = 1
    for _ in range(random.choice((3, 60, 600))):
        value = [value] if random.random() < 0.5 else {"a": value}
    return value


def number(random: Random) -> object:
    """Return what stands where a number is expected."""
    numbers = (0, -1, 1.5, 7, 120.5, 10**400, -(10**400), math.nan, math.inf, -math.inf, 1e-9, 1e308, True, None)
    return random.choice((*numbers, "1" * 400, "-0.5", "3/10", "90 %"))


VALUES: list[Make[object]] = [
    number,
    lambda random: random.choice(WORDS),
    lambda random: random.choice(("img_1", "img_2", "mask_1", "img_999", ["img_1"], {"id": "img_1"})),
    lambda random: random.choice(("darken", "remove the circle", "blur")),
    lambda random: unit(random) * random.randrange(300),
    lambda random: [random.choice(WORDS) for _ in range(random.randrange(5))],
    nested,
]


def unit(random: Random) -> str:
    """Return one of the units."""
    return random.choice(tuple(UNITS.values()))


def value(random: Random) -> object:
    """Return a value that JSON may carry."""
    return random.choice(VALUES)(random)


def call(random: Random) -> str:
    """Return a call as JSON, perhaps of a wrong shape."""
    arguments: object = {random.choice(FIELDS): value(random) for _ in range(random.randrange(5))}
    arguments = random.choice((arguments, arguments, arguments, dumped(random, arguments), value(random)))
    name = random.choice((*TOOL_NAMES, value(random)))
    made = {"name": name, random.choice(("arguments", "arguments", "parameters", "args")): arguments}
    return dumped(random, random.choice((made, made, {"function": made}, [made, made])))


def dumped(random: Random, made: object) -> str:
    """Return a value as JSON, which may hold numbers that Python would neither write nor read."""
    text = json.dumps(made, ensure_ascii=random.random() < 0.5, default=str)
    return text if random.random() < 0.8 else text.replace(": 1", f": {random.choice(_BARE)}")


def wrapped(random: Random) -> str:
    """Return a call in one of the forms in which models write it."""
    if random.random() < 0.3:
        return random.choice(tuple(WRAPS.values())).format(call(random))
    return random.choice(FORMS).replace("{}", call(random))


def mutated(random: Random, data: T) -> T:
    """Return a text or bytes with some pieces cut out, doubled or exchanged."""
    made: Any = data
    for _ in range(random.randrange(1, 4)):
        if not made:
            break
        start = random.randrange(len(made))
        end = min(len(made), start + random.randrange(1, 20))
        piece = made[start:end]
        made = made[:start] + random.choice((piece[:0], piece * 2, piece[::-1], made[:7])) + made[end:]
    kept: T = made if random.random() < 0.8 else made[: random.randrange(len(made) + 1)]
    return kept


TEXTS: list[Make[str]] = [
    wrapped,
    lambda random: "".join(wrapped(random) for _ in range(3)),
    lambda random: mutated(random, wrapped(random)),
    lambda random: mutated(random, wrapped(random) + call(random)),
    lambda random: unit(random) * random.choice((10, 1000, 8000)) + random.choice(("", unit(random))),
    lambda random: "".join(random.choice((*WORDS, *UNITS.values())) for _ in range(random.randrange(60))),
    lambda random: random.choice(tuple(WRAPS.values())).format(unit(random) * random.choice((3, 1000))),
    lambda random: f"feedback: {{'success': {value(random)!r}}} {random.randrange(12)}/10",
]


def text(random: Random) -> str:
    """Return any of the texts."""
    return random.choice(TEXTS)(random)


def hostile_texts(size: int) -> Iterator[tuple[str, str, str]]:
    """Yield every unit in every place: a name, a text, and one of four times its length.

    Args:
        size: characters of the longer text, about.
    """
    for family, repeated in UNITS.items():
        for place, wrap in WRAPS.items():
            short, long = (wrap.format(repeated * (length // len(repeated))) for length in (size // 4, size))
            yield f"{family} {place}", short, long


def texts(longest: int = 4000) -> st.SearchStrategy[str]:
    """Return a strategy of any texts, of pieces of calls put together at random, and of `TEXTS`.

    Args:
        longest: characters, about.
    """
    pieces = st.sampled_from([*UNITS.values(), *WORDS, *"}]),:"])
    repeated = st.builds(lambda piece, times: piece * times, pieces, st.integers(1, 40))
    joined = st.lists(pieces | repeated | st.text(max_size=8), max_size=25).map("".join)
    wrapped = st.builds(lambda wrap, text: wrap.format(text), st.sampled_from(list(WRAPS.values())), joined)
    made = st.integers(0, 2**32).map(lambda seed: text(Random(seed)))
    return (st.text() | joined | wrapped | made).map(lambda text: text[:longest])
