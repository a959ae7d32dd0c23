"""The model of the examples, from API_URL, API_KEY, MODEL_NAME, MAX_TOKENS and TEMPERATURE.

They come from the environment or a `.env` file. VLLM_API_URL and VLLM_API_KEY are other names of the first two.
"""

from __future__ import annotations

import os
from pathlib import Path

from agentfly.errors import ConfigError
from agentfly.systems import VLLMModel
from agentfly.systems.environment import number, read_env


def model_from_environment(env: Path | None = None) -> VLLMModel:
    """Make the model that the settings name.

    Args:
        env: settings file; default: `.env` in the working folder, if there is one.

    Raises:
        ConfigError: a setting is missing or wrong; the message names it.
    """
    values = read_env(env)
    url, model = _either(values, "API_URL"), values.get("MODEL_NAME")
    missing = [name for name, value in (("API_URL (or VLLM_API_URL)", url), ("MODEL_NAME", model)) if not value]
    if not url or not model:
        raise ConfigError(
            f"{' and '.join(missing)} not set: export them, or copy recipes/text_systems/.env.example to .env"
        )
    return VLLMModel(
        model,
        url,
        _either(values, "API_KEY"),
        max_tokens=number(values, "MAX_TOKENS", int, 32000),
        temperature=number(values, "TEMPERATURE", float, 0.7),
    )


def _either(values: dict[str, str], name: str) -> str | None:
    """Return the setting `VLLM_<name>` or `<name>`; the environment overrides the file, then the first name wins."""
    places, names = (os.environ, values), (f"VLLM_{name}", name)
    return next((place[known] for place in places for known in names if place.get(known)), None)
