"""Keys of services: read them, and keep them and other secrets out of messages, logs and files.

A key reaches a text in many ways: a server repeats it, a library shows the header that it refused, an address has a
password in it. `redact` is for texts that are shown or stored, `is_secret_name` for names of settings and headers.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated
from urllib.parse import quote, quote_plus

from pydantic import AfterValidator, SecretStr

from agentfly.errors import ConfigError, printable

MASK = "***"
# A shorter one ("x") protects nothing, and is part of every second word of a message.
_SHORTEST_SECRET = 4

# What stands before the host of an address. Its end is the last "@" before the path, as for the parsers of addresses.
_USER = re.compile(r'(?<=://)(?!\*\*\*@)[^\s/?#"<>]*@')
_QUERY = re.compile(
    r"(?P<name>[?&;#](?:[\w.-]*(?:key|token|secret|password|passwd|pwd|signature|credential)|auth|code|sig)=)"
    r"(?!\*\*\*)[^&#\s\"'<>]+",
    re.IGNORECASE,
)

# The header in which the password of an address is sent.
_BASIC = re.compile(r"(?P<name>\b[Bb]asic )(?P<text>[A-Za-z0-9+/]{4,}=*)")

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORD = re.compile(
    r".*(?:authorization|cookies?|password|passwd|passphrase|secrets?|credentials?|"
    r"(?:api|access|private|auth|subscription)key)"
)
# Names that are refused whatever their value is.
_ALWAYS = frozenset(("api_key", "apikey", "token", "password", "secret"))
_HEADER = re.compile(r"\s*((?:proxy-)?authorization|(?:x-)?api-key|(?:set-)?cookie)\s*:\s*\S", re.IGNORECASE)
# A word of a command that gives a value, in itself (`--api-key=…`, `API_KEY=…`) or in the next word (`--api-key …`).
_OPTION = re.compile(r"(?P<dashes>-{0,2})(?P<name>[A-Za-z][\w.-]*)(?:=(?P<value>.+))?", re.DOTALL)
# Tokens of a tokenizer, such as `eos_token`.
_TOKENIZERS = frozenset(("bos", "cls", "end", "eos", "image", "mask", "pad", "sep", "special", "start", "stop", "unk"))


def checked_key(key: str, name: str) -> str:
    """Return a key without the spaces and line breaks around it, which come from files and copying.

    Args:
        key: as it was given.
        name: of its variable or setting, for the message.

    Raises:
        ConfigError: it has a character that no header can carry. The message does not have the key.
    """
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{name} has a line break or another character that no key has: set it again, on one line")
    return key


def read_key(variable: str, environment: Mapping[str, str] | None = None) -> str | None:
    """Return the key in an environment variable; None where it is not set or empty.

    Args:
        variable: its name.
        environment: that of the process by default.

    Raises:
        ConfigError: the value cannot be a key; the message names the variable.
    """
    value = (os.environ if environment is None else environment).get(variable, "")
    return checked_key(value, f"the environment variable {variable}") or None


def _checked(key: SecretStr) -> SecretStr:
    return SecretStr(checked_key(key.get_secret_value(), "the key"))


ApiKey = Annotated[SecretStr, AfterValidator(_checked)]
"""A key as a field of settings."""


def redact(text: str, *secrets: SecretStr | str | None) -> str:
    """Return a text in which keys, and the secrets of addresses, are replaced by asterisks.

    Args:
        text: of any origin.
        secrets: keys to look for, as they are and in the forms in which programs show and send them.
    """
    for secret in secrets:
        key = (secret.get_secret_value() if isinstance(secret, SecretStr) else secret or "").strip()
        if len(key) >= _SHORTEST_SECRET:
            forms = {key, repr(key)[1:-1], json.dumps(key)[1:-1], quote(key, safe=""), quote_plus(key)}
            for form in sorted(forms, key=len, reverse=True):
                text = text.replace(form, MASK)
    return public_url(text)


def public_url(url: str) -> str:
    """Return an address, or a text with addresses or their headers, without passwords and without keys in the query."""
    if "://" in url:
        url = _USER.sub(f"{MASK}@", url)
    if "asic " in url:
        url = _BASIC.sub(_masked_basic, url)
    return _QUERY.sub(rf"\g<name>{MASK}", url) if "=" in url else url


def _masked_basic(found: re.Match[str]) -> str:
    """Return a header in which a user and a password in base64 are asterisks; other words stay."""
    text = found["text"].rstrip("=")
    try:
        held = base64.b64decode(f"{text}{'=' * (-len(text) % 4)}")
    except ValueError:
        return found[0]
    return f"{found['name']}{MASK}" if b":" in held else found[0]


class LogFormatter(logging.Formatter):
    """Formatter of lines, and their tracebacks, without secrets of addresses and without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return printable(public_url(super().format(record)))


def log_to_stderr(level: int, form: str) -> None:
    """Log to standard error by a `LogFormatter`, unless this process logs already.

    Args:
        level: least severe messages to log.
        form: of a line, as `logging.Formatter` takes it.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter(form))
    logging.basicConfig(level=level, handlers=[handler])


def is_secret_name(name: str) -> bool:
    """Return True for the name of a setting or a header that holds a secret, such as `X-Auth-Token` or `api_key`.

    The name of a setting that names a variable or a file (`api_key_env`, `token_path`) is none.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in ("env", "path", "file", "dir", "url", "column"):
        return False
    if any(_SECRET_WORD.fullmatch(word) for word in (*words, *map("".join, pairwise(words)))):
        return True
    if words[0] == "x" and words[-1] == "key":
        return True
    return any(word.endswith("token") and not (at and words[at - 1] in _TOKENIZERS) for at, word in enumerate(words))


def secret_entries(settings: object) -> Iterator[str]:
    """Yield the names of the entries that hold secrets, at any depth of settings.

    Headers count in all forms in which people write them: as mappings, as pairs, and as lines (`Cookie: …`). So do the
    options of a command (`--api-key …`).
    """
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            if _is_secret(str(name), value):
                yield str(name)
            else:
                yield from secret_entries(value)
    elif isinstance(settings, list | tuple):
        if len(settings) == 2 and isinstance(settings[0], str) and _is_secret(settings[0], settings[1]):
            yield settings[0]
        else:
            yield from (name for name, _ in _secret_words(settings).values())
            for item in settings:
                if isinstance(item, str) and (header := _HEADER.match(item)):
                    yield header[1]
                yield from secret_entries(item)


def _secret_words(words: Sequence[object]) -> dict[int, tuple[str, str]]:
    """Return the words of a command that hold secrets, by place: the name of the secret, and the word without it."""
    found: dict[int, tuple[str, str]] = {}
    for place, word in enumerate(words):
        option = _OPTION.fullmatch(word) if isinstance(word, str) else None
        if option is None:
            continue
        name, value = option["name"], option["value"]
        if value is not None:
            if not value.isdecimal() and _is_secret(name, value):
                found[place] = name, f"{option['dashes']}{name}={MASK}"
        elif option["dashes"] and place + 1 < len(words):
            after = words[place + 1]
            if isinstance(after, str) and not after.isdecimal() and after[:1] != "-" and _is_secret(name, after):
                found[place + 1] = name, MASK
    return found


def _is_secret(name: str, value: object) -> bool:
    # Other values are switches and counts, such as `return_token_ids: true`, or a special token, such as `<|image|>`.
    held = isinstance(value, str | SecretStr) and str(value).lower() not in ("", "0", "1", "true", "false")
    held = held and not (str(value).startswith("<") and str(value).endswith(">"))
    return name.lower() in _ALWAYS or (held and is_secret_name(name))


def public_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings as a folder or a record may keep them: secrets, also those of addresses, become asterisks."""

    def public(value: object) -> object:
        if isinstance(value, Mapping):
            return public_settings(value)
        if isinstance(value, list | tuple):
            masked = _secret_words(value)
            return [masked[place][1] if place in masked else public(item) for place, item in enumerate(value)]
        return public_url(value) if isinstance(value, str) else value

    return {name: MASK if _is_secret(str(name), value) else public(value) for name, value in settings.items()}
