"""Read the replies of agents: a brief, a prompt with what to avoid, a critique with a score."""

from __future__ import annotations

import re

from agentfly.evaluators.judge.replies import BrokenReply, read_reply
from agentfly.evaluators.judge.schemes import Question
from agentfly.systems.director_generator.records import Critique

# The judge's own rules for replies: nothing is guessed, nothing out of range is clipped.
_CRITIQUE = Question("director_critique", {"score": "how good it is"}, 100, task="", shown=("result",))
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)
_LABEL = re.compile(r"\A(?:\*\*)?(?:picture |image )?(?:prompt|instruction)(?:\*\*)?\s*:(?:\*\*)?\s*", re.IGNORECASE)
_NEGATIVE = re.compile(r"^\W*negative[ _]prompt\W*:\W*(.*)\Z", re.IGNORECASE | re.MULTILINE | re.DOTALL)


def read_brief(text: str) -> dict[str, str]:
    """Return a brief: the whole reply."""
    return {"brief": text}


def read_prompt(text: str) -> dict[str, str]:
    """Return a prompt, and the text that follows "Negative prompt:".

    Raises:
        BrokenReply: there is no prompt before the negative one.
    """
    fenced = _FENCE.match(text)
    body = fenced[1].strip() if fenced else text
    found = _NEGATIVE.search(body)
    prompt = _LABEL.sub("", body[: found.start()] if found else body).strip().strip('"').strip()
    if not prompt:
        raise BrokenReply('it has no prompt: write the prompt first, then, if you like, a line "Negative prompt: ..."')
    return {"prompt": " ".join(prompt.split()), "negative_prompt": " ".join(found[1].split()) if found else ""}


def read_critique(text: str) -> Critique:
    """Return the score, from 0 to 100, and the feedback of a critique.

    Raises:
        BrokenReply: no JSON object with `feedback` and `score`, or the score is not a number from 0 to 100.
    """
    ratings = read_reply(text, _CRITIQUE)
    return {"score": ratings.values["score"], "feedback": ratings.feedback}
