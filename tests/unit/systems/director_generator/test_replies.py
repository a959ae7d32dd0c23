"""Replies of agents, in the forms that models give them."""

from __future__ import annotations

import pytest

from agentfly.evaluators.judge.replies import BrokenReply
from agentfly.systems.director_generator.replies import read_critique, read_prompt


@pytest.mark.parametrize(
    ("text", "prompt", "negative"),
    [
        ("A red boat.", "A red boat.", ""),
        ("A red boat,\non water.\nNegative prompt: text, frames", "A red boat, on water.", "text, frames"),
        ('**Prompt:** "A red boat"\n\n**Negative prompt:** text,\nframes', "A red boat", "text, frames"),
        ("```text\nA red boat\nnegative_prompt: text\n```", "A red boat", "text"),
        ("A sign that says 'prompt: go'", "A sign that says 'prompt: go'", ""),
    ],
)
def test_prompts(text: str, prompt: str, negative: str) -> None:
    assert read_prompt(text) == {"prompt": prompt, "negative_prompt": negative}


def test_a_prompt_of_negations_alone_is_none() -> None:
    with pytest.raises(BrokenReply, match="has no prompt"):
        read_prompt("Negative prompt: text")


def test_critique_in_a_wrapping() -> None:
    text = 'I see.\n```json\n{"feedback": "Too dark.", "score": "70/100"}\n```'
    assert read_critique(text) == {"score": 70.0, "feedback": "Too dark."}


@pytest.mark.parametrize("text", ["Great!", '{"feedback": "x", "score": 101}', '{"feedback": "x"}', '{"score": 7}'])
def test_a_critique_without_a_score_of_the_scale_is_broken(text: str) -> None:
    with pytest.raises(BrokenReply):
        read_critique(text)
