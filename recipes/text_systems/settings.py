"""Where the model is: API_URL, API_KEY, MODEL_NAME, MAX_TOKENS and TEMPERATURE, from the environment or a `.env`."""

from __future__ import annotations

from pathlib import Path

from agentfly.errors import ConfigError
from agentfly.systems import VLLMModel
from agentfly.systems.environment import number, read_env


def model_from_environment(env: Path | None = None) -> VLLMModel:
    """The model that the environment names.

    Args:
        env: settings file; `.env` in the working folder without it, where there is one.

    Raises:
        ConfigError: a setting is missing or wrong; the message names it.
    """
    values = read_env(env)
    missing = [name for name in ("API_URL", "MODEL_NAME") if not values.get(name)]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} not set: export them, or copy recipes/text_systems/.env.example to .env"
        )
    return VLLMModel(
        values["MODEL_NAME"],
        values["API_URL"],
        values.get("API_KEY"),
        max_tokens=number(values, "MAX_TOKENS", int, 32000),
        temperature=number(values, "TEMPERATURE", float, 0.7),
    )
