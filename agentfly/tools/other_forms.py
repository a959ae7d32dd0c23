"""Recognise calls in the forms of other model families, so that the model can be told which form is wanted.

Only what is plainly a call counts: a tag of such a form that holds something, an object of a name and arguments that
begins a line, a call in Python's syntax that is the whole text or its last line.
"""

from __future__ import annotations

import re

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
# A form, and a word in small letters that every text of it has: looking for words first is many times quicker.
_FORMS = (
    ("tool", _TAG),
    ("function", _TAG),
    ("invoke", _TAG),
    ("<|python_tag|>", _TAG),
    ("arguments", _OBJECT),
    ("param", _OBJECT),
    ("args", _OBJECT),
    ("input", _OBJECT),
    ("tool_calls", _LISTED),
    ("action input:", _REACT),
)
_PYTHON = re.compile(
    r"\[?\s*+(?:print\(\s*+)?([A-Za-z_][\w.]{0,80}+)\(\s*+(?:[A-Za-z_]\w{0,80}+\s*+=(?!=).*)?\)\s*\]?\)?", re.DOTALL
)
_FENCED = re.compile(r"(`{3,}+|~{3,}+)[ \t]*+[\w+-]*+\s(.*)\1", re.DOTALL)


def name_in_other_form(text: str) -> str | None:
    """Return the name in a text that is plainly a call in another form, "" for an unknown one; None for other texts."""
    words = text.lower()
    for word, form in _FORMS:
        if word in words and (match := form.search(text)):
            return next((name for name in match.groups() if name), "")
    bare = text.strip()
    if fence := _FENCED.fullmatch(bare):
        bare = fence[2].strip()
    if bare.endswith((")", "]")):
        call = _PYTHON.fullmatch(bare) or _PYTHON.fullmatch(bare.rpartition("\n")[2].strip())
        return call[1] if call else None
    return None
