"""One judgement, by the judge of the settings: a vision-language model unless `evaluator` names another."""

from __future__ import annotations

import asyncio

from PIL import Image

from agentfly.evaluators import EditSample, close_evaluator
from agentfly.images import load_image
from agentfly.systems.refinement.command import read_settings
from agentfly.systems.refinement.factory import make_judge


async def evaluate_image(image_path: str, prompt: str, **options: object) -> dict[str, object]:
    """Return `score`, a whole number from 0 to 100, and `feedback`.

    Args:
        image_path: the image.
        prompt: description that it was made from.
        options: fields of `GenerateSettings`; those that are not given come from the environment or `.env`.

    Raises:
        ConfigError: a setting is wrong.
        EvaluatorError: there is no judgement.
    """
    judge = make_judge(read_settings(options, None, None))
    image = await asyncio.to_thread(load_image, image_path)
    try:
        score = await judge.evaluate(EditSample(prompt, Image.new("RGB", image.size, "white"), image))
    finally:
        await close_evaluator(judge)
    return {"score": round(score.value), "feedback": score.feedback}
