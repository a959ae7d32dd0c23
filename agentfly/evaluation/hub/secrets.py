"""Keep keys of services out of a data set that others will read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agentfly.agents.trajectory import plain
from agentfly.files import encodable
from agentfly.redaction import is_secret_name, public_settings, redact

# Shorter values of such variables are switches and names: `SESSION_TOKEN=on`.
_SHORTEST = 8


class SecretFilter:
    """Replaces keys, and the secrets of addresses, by asterisks.

    Args:
        secrets: keys to look for in every text, beside those that addresses hold.

    Attributes:
        found: set to True where a text held one.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = tuple(sorted(set(secrets)))
        self.found = False

    def text(self, text: str) -> str:
        """Return a text without keys, and without halves of surrogate pairs, which no file can hold."""
        whole = str(encodable(text))
        clean = redact(whole, *self._secrets)
        self.found = self.found or clean != whole
        return clean

    def maybe(self, text: str | None) -> str | None:
        """Return a text without keys; None for none."""
        return None if text is None else self.text(text)

    def value(self, value: Any) -> Any:
        """Return a value of JSON whose texts, names included, hold no keys."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(name)): self.value(item) for name, item in value.items()}
        return [self.value(item) for item in value] if isinstance(value, list | tuple) else value

    def json(self, value: object, *, by_name: bool = True) -> str:
        """Return a value as JSON text.

        Args:
            value: JSON-able, or with values that `plain` describes.
            by_name: also replace the entries that are named like keys.
        """
        known = json.loads(json.dumps(value, default=plain))
        public = public_settings({"": known})[""] if by_name else known
        self.found = self.found or public != known
        return json.dumps(self.value(public), ensure_ascii=False)


def environment_secrets(environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield the values of the environment variables that are named like keys; those of the process by default."""
    for name, value in (os.environ if environment is None else environment).items():
        if is_secret_name(name) and len(value.strip()) >= _SHORTEST:
            yield value.strip()


def setting_secrets(settings: object, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield the keys that settings hold, and those of the environment variables that they name (`api_key_env`)."""
    environment = os.environ if environment is None else environment
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            if isinstance(value, str) and len(value.strip()) >= _SHORTEST and is_secret_name(str(name)):
                yield value.strip()
            elif isinstance(value, str) and str(name).endswith("_env"):
                yield from filter(None, [environment.get(value, "").strip()])
            else:
                yield from setting_secrets(value, environment)
    elif isinstance(settings, list | tuple):
        for item in settings:
            yield from setting_secrets(item, environment)
