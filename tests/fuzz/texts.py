"""Texts that a policy could write in order to break, or slow down, whoever reads calls in them.

`FAMILIES` are units that are repeated to any length, and `WRAPS` are places that they stand in. `texts` is a Hypothesis
strategy of broken calls, and `slower_than_linear` lists what slows a reader down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from hypothesis import strategies as st

FAMILIES: dict[str, str] = {
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


def hostile_texts(size: int) -> Iterator[tuple[str, str]]:
    """Yield names and texts: every family in every place.

    Args:
        size: characters, about.
    """
    for family, unit in FAMILIES.items():
        for place, wrap in WRAPS.items():
            yield f"{family} {place}", wrap.format(unit * (size // len(unit)))


def texts(longest: int = 4000) -> st.SearchStrategy[str]:
    """Return a strategy of any texts, and of pieces of calls put together at random.

    Args:
        longest: characters, about.
    """
    pieces = st.sampled_from([*FAMILIES.values(), *"}]),:", "None", "```", "</tool_call>", "<tool_call>", "\r\n"])
    repeated = st.builds(lambda piece, times: piece * times, pieces, st.integers(1, 40))
    joined = st.lists(pieces | repeated | st.text(max_size=8), max_size=25).map("".join)
    wrapped = st.builds(lambda wrap, text: wrap.format(text), st.sampled_from(list(WRAPS.values())), joined)
    return (st.text() | joined | wrapped).map(lambda text: text[:longest])


def slower_than_linear(read: Callable[[str], object], size: int, quick: float) -> list[str]:
    """Return the names of the hostile texts for which the time of a reader grows faster than their length.

    Args:
        read: the reader.
        size: characters of each text.
        quick: seconds for one text that are no harm, however they grow.
    """
    slow = []
    for (name, short), (_, long) in zip(hostile_texts(size // 4), hostile_texts(size), strict=True):
        if (seconds := _seconds(read, long, 1)) >= quick:
            seconds = min(seconds, _seconds(read, long, 2))
            # Four times the length: a linear reader takes 4 times as long, a quadratic one 16 times.
            if seconds >= quick and seconds > 9 * _seconds(read, short, 3):
                slow.append(f"{name}: {seconds:.3f} s for {len(long)} characters")
    return slow


def _seconds(read: Callable[[str], object], text: str, times: int) -> float:
    best = float("inf")
    for _ in range(times):
        begun = time.process_time()
        read(text)
        best = min(best, time.process_time() - begun)
    return best
