"""Check an OpenAI-compatible endpoint before its first generation: its key, whether it answers, what it serves."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from pydantic import SecretStr

from agentfly.agents.llm_backends.configs import ClientConfig
from agentfly.errors import BackendError, ConfigError, first_line
from agentfly.redaction import public_url, read_key, redact

KEY_VARIABLE = "OPENAI_API_KEY"
KEYED_HOST = "api.openai.com"
"""Known to need a key; of other hosts that is unknown until they are asked."""

_CONNECT_SECONDS, _LIST_SECONDS = 5.0, 10.0
_MOST_LISTED = 20  # names in a message


def endpoint_config(
    base_url: str, api_key_env: str = KEY_VARIABLE, more: Mapping[str, object] | None = None
) -> ClientConfig:
    """Return the settings of an endpoint, with its key from the environment.

    Args:
        base_url: address up to and including `/v1`.
        api_key_env: environment variable with the key. Where it is not set, the endpoint is taken to need none.
        more: further fields of `ClientConfig`, which go before the others.

    Raises:
        ConfigError: the endpoint is known to need a key and there is none, or a field is wrong.
    """
    key = read_key(api_key_env)
    fields: dict[str, object] = {"base_url": base_url, "api_key": SecretStr(key) if key else None, **(more or {})}
    config = ClientConfig(**fields)
    if config.api_key is None and urlsplit(config.base_url).hostname == KEYED_HOST:
        raise ConfigError(
            f"{public_url(config.base_url)} answers nobody without a key: export {api_key_env} with yours"
        )
    return config


def reachable_url(config: ClientConfig) -> str:
    """Return the address to call; 0.0.0.0, where a server listens, becomes 127.0.0.1."""
    return config.base_url.rstrip("/").replace("://0.0.0.0", "://127.0.0.1")


def key_headers(config: ClientConfig) -> dict[str, str]:
    """Return the header with the key; no header where there is no key."""
    key = config.api_key
    return {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}


async def list_models(config: ClientConfig, api_key_env: str = KEY_VARIABLE) -> list[str] | None:
    """Return the names of the models that an endpoint serves, or None where it does not list them.

    Args:
        config: address and key.
        api_key_env: environment variable with the key, for messages.

    Raises:
        BackendError: nothing answers there, or the key is missing or refused.
    """
    import httpx

    url = public_url(config.base_url)
    try:
        async with httpx.AsyncClient(timeout=httpx.Timeout(_LIST_SECONDS, connect=_CONNECT_SECONDS)) as client:
            response = await client.get(f"{reachable_url(config)}/models", headers=key_headers(config))
    except (httpx.ReadTimeout, httpx.RemoteProtocolError):
        return None  # it is there, and may be busy
    except (httpx.TransportError, httpx.InvalidURL) as fault:
        reason = redact(first_line(fault), config.api_key)
        raise BackendError(f"cannot reach {url} ({reason}): check the address, and that the server runs") from None
    if response.status_code == 401:
        wrong = f"refuses the key in {api_key_env}" if config.api_key else f"wants a key: export {api_key_env} with it"
        raise BackendError(f"{url} {wrong} (HTTP 401)")
    if response.status_code != 200:
        return None
    try:
        return [str(model["id"]) for model in response.json()["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


async def served_model(config: ClientConfig, model: str | None, api_key_env: str = KEY_VARIABLE) -> str:
    """Return the model to ask an endpoint for: the named one, or else the only one that it serves.

    Args:
        config: address and key.
        model: the name that was given; None for none.
        api_key_env: environment variable with the key, for messages.

    Raises:
        BackendError: nothing answers there, or the key is missing or refused.
        ConfigError: none was named, and it does not serve exactly one.
    """
    served = await list_models(config, api_key_env)
    if model is not None:
        return model
    if served is not None and len(served) == 1:
        return served[0]
    url = public_url(config.base_url)
    if not served:
        raise ConfigError(f"--model is missing: {url} does not list its models, name the one to ask for")
    more = f" and {len(served) - _MOST_LISTED} more" if len(served) > _MOST_LISTED else ""
    raise ConfigError(f"--model is missing: {url} serves {', '.join(sorted(served)[:_MOST_LISTED])}{more}")
