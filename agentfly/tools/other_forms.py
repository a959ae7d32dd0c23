"""Recognise calls in the forms of other model families, so that the model can be told which form is wanted.

Only what is plainly a call counts: a tag of such a form that holds something. Or, if its name is that of a tool, an
object of a name and arguments that begins a line, or a call in Python's syntax that is the whole text or its last
line. A policy without tools calls none, and whatever it writes is its answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_TAG = re.compile(
    r"<(?:tool_?calls?|function_?calls?)(?:\s[^<>]{0,200}+)?>\s*+[\[{<]"
    r"|<function=([\w.-]{1,64})>"
    r"|<invoke\s++name\s*+=\s*+[\"']([\w.-]{1,64})[\"']"
    r"|\[TOOL_CALLS?\]\s*+(?:([\w.-]{1,64}+)\s*+(?:\[ARGS\]\s*+)?)?[\[{(]"
    r"|<\|(?:python_tag|tool_calls?)\|>\s*+[\[{<\w]"
    r"|\bfunctools\s*+\[\s*+\{",
    re.IGNORECASE,
)
_START = r"(?:^|(?:```|~~~)[ \t]*+[\w+-]*+)[ \t]*+"
_OBJECT = re.compile(
    _START + r"(?:\[\s*+)?\{\s*+"
    r"""(?:["']type["']\s*+:\s*+["']function["']\s*+,\s*+)?(?:["']function["']\s*+:\s*+\{\s*+)?"""
    r"""["']?(?:name|tool|tool_name|function|function_name|action)["']?\s*+:\s*+["']([\w.-]{1,64})["']\s*+,\s*+"""
    r"""["']?(?:arguments|parameters|params|args|kwargs|input|tool_input|action_input)["']?\s*+:\s*+["']?\{""",
    re.MULTILINE,
)
_LISTED = re.compile(_START + r"""\{\s*+["']tool_calls["']\s*+:\s*+\[\s*+\{""", re.MULTILINE)
_REACT = re.compile(r"^Action:[ \t]*+([\w.-]{1,64}+)[ \t]*+\r?\n\s*+Action Input:", re.MULTILINE)
_QUOTED_NAME = re.compile(r"""["']name["']\s*+:\s*+["']([\w.-]{1,64})["']""")
# Words in small letters, of which every text of a form has one: looking for words first is many times quicker.
_TAG_WORDS = ("tool", "function", "invoke", "<|python_tag|>")
_OBJECT_WORDS = ("arguments", "param", "args", "input")
_PYTHON = re.compile(
    r"\[?\s*+(?:print\(\s*+)?([A-Za-z_][\w.]{0,80}+)\(\s*+(?:[A-Za-z_]\w{0,80}+\s*+=(?!=).*)?\)\s*\]?\)?", re.DOTALL
)
_FENCED = re.compile(r"(`{3,}+|~{3,}+)[ \t]*+[\w+-]*+\s(.*)\1", re.DOTALL)


def name_in_other_form(text: str, names: Collection[str]) -> str | None:
    """Return the name in a text that is plainly a call in another form, "" for an unknown one; None for other texts.

    Args:
        text: of a turn, without thoughts.
        names: of the tools.
    """
    if not names:
        return None
    words = text.lower()
    if _has_any(_TAG_WORDS, words) and (match := _TAG.search(text)):
        return next((name for name in match.groups() if name), "")
    found = list(_OBJECT.finditer(text)) if _has_any(_OBJECT_WORDS, words) else []
    if "action input:" in words:
        found += _REACT.finditer(text)
    found += _python_calls(text)
    for match in found:
        # Some families write a module before it: `functions.edit`.
        if match[1] in names or match[1].rpartition(".")[2] in names:
            return match[1]
    if "tool_calls" in words and (match := _LISTED.search(text)):
        return "" if any(name in names for name in _QUOTED_NAME.findall(text, match.start())) else None
    return None


def _has_any(words: tuple[str, ...], text: str) -> bool:
    for word in words:  # noqa: SIM110 - `any` takes three times as long, and every turn comes here.
        if word in text:
            return True
    return False


def _python_calls(text: str) -> list[re.Match[str]]:
    bare = text.strip()
    if fence := _FENCED.fullmatch(bare):
        bare = fence[2].strip()
    if not bare.endswith((")", "]")):
        return []
    call = _PYTHON.fullmatch(bare) or _PYTHON.fullmatch(bare.rpartition("\n")[2].strip())
    return [] if call is None else [call]
