"""One better prompt, by the prompter of the settings."""

from __future__ import annotations

from collections.abc import Sequence

from agentfly.evaluators import load_rubric
from agentfly.systems.refinement import Critique
from agentfly.systems.refinement.command import read_settings
from agentfly.systems.refinement.factory import make_prompter


async def generate_prompt(previous_prompt: str, feedback: Sequence[str], **options: object) -> str:
    """Return the next prompt.

    Args:
        previous_prompt: of the last image.
        feedback: critiques of it.
        options: fields of `GenerateSettings`; those that are not given come from the environment or `.env`.

    Raises:
        ConfigError: a setting is wrong.
        BackendError: the model did not answer.
        ToolError: it refused, or said nothing.
    """
    settings = read_settings(options, None, None)
    new_prompter, close = make_prompter(settings, load_rubric(settings.rubric) if settings.rubric else None)
    try:
        return await new_prompter().refine(previous_prompt, previous_prompt, Critique(feedback="\n".join(feedback)))
    finally:
        if close is not None:
            await close()
