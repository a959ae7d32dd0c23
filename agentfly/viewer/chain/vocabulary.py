"""Token ids to text by `tokenizer.json`, with the bytes of characters that are spread over several tokens.

The tokenizers package is used where it is installed: pages without it show texts without their tokens.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from agentfly.viewer.chain.setup import RunSetup

FILE_NAME = "tokenizer.json"
_MOST_BYTES = 128 * 2**20
_PLACEHOLDERS = ("<|image_pad|>", "<image>", "<|image|>", "<image_soft_token>", "[IMG]")
_HIGHEST_ID = 2**32 - 1


@dataclass(frozen=True)
class Named:
    """A token: its text, and whether it is a special one.

    Attributes:
        text: incomplete characters are shown as their bytes in hex, such as ⟨F0 9F⟩.
        special: the token has a meaning of its own in a conversation.
    """

    text: str
    special: bool = False


class Vocabulary:
    """The tokens of a policy.

    Args:
        tokenizer: of the package tokenizers.
        byte_level: its tokens stand for bytes, as in GPT-2 and Qwen.

    Attributes:
        image_id: id that stands for a patch of an image; None where the tokenizer has none of a known name.
    """

    def __init__(self, tokenizer: Any, *, byte_level: bool) -> None:
        self._tokenizer, self._byte_level = tokenizer, byte_level
        self._added = dict(tokenizer.get_added_tokens_decoder())
        known = (tokenizer.token_to_id(name) for name in _PLACEHOLDERS)
        self.image_id: int | None = next((found for found in known if found is not None), None)

    def names(self, ids: Iterable[int]) -> list[Named]:
        """Return the texts of tokens, one for each id."""
        found: list[Named] = []
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for number in ids:
            added = self._added.get(number)
            token = self._token(number)
            if added is not None or token is None:
                decoder.reset()
                text = added.content if added is not None else f"⟨{number}⟩"
                found.append(Named(text, added is None or bool(added.special)))
                continue
            found.append(Named(_shown(decoder, self._bytes(token))))
        return found

    def text(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Return the text of ids; without the special tokens it is the text of a turn."""
        sound = [number for number in ids if self._token(number) is not None]
        return str(self._tokenizer.decode(sound, skip_special_tokens=not special))

    def _token(self, number: int) -> str | None:
        if not 0 <= number <= _HIGHEST_ID:
            return None
        token: str | None = self._tokenizer.id_to_token(number)
        return token

    def _bytes(self, token: str) -> bytes:
        if self._byte_level:
            table = _byte_table()
            if all(char in table for char in token):
                return bytes(table[char] for char in token)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            try:
                return bytes([int(token[3:5], 16)])
            except ValueError:
                pass
        return token.replace("▁", " ").encode("utf-8", "replace")


def find_vocabulary(given: str | None, setup: RunSetup) -> tuple[Vocabulary | None, str]:
    """Return the vocabulary of a run's policy, and where it is from; or None, and the reason with a remedy.

    Args:
        given: folder or `tokenizer.json` that a person named; None for the run's own.
        setup: of the run.
    """
    files = [_file(Path(given).expanduser())] if given is not None else [_file(p) for p in setup.policies]
    reason = "the policy's tokenizer is not on this machine"
    for file in files:
        try:
            status = file.stat()
            if file.is_file() and status.st_size <= _MOST_BYTES:
                return _load(file, status.st_mtime_ns), str(file)
        except ImportError:
            return None, "the package tokenizers is not installed: pip install tokenizers"
        except OSError:
            continue
        except Exception as fault:  # the package raises bare exceptions
            reason = f"{str(file)!r} is no tokenizer ({type(fault).__name__})"
    if given is not None:
        return None, f"--tokenizer {given}: there is no {FILE_NAME} that can be read"
    return None, f"{reason}: name its folder with agentfly view --tokenizer FOLDER"


def _file(path: Path) -> Path:
    return path if path.suffix == ".json" else path / FILE_NAME


@lru_cache(maxsize=4)
def _load(file: Path, changed: int) -> Vocabulary:
    from tokenizers import Tokenizer

    text = file.read_text(encoding="utf-8")
    parts = json.loads(text)
    byte_level = "ByteLevel" in json.dumps([parts.get("decoder"), parts.get("pre_tokenizer")])
    return Vocabulary(Tokenizer.from_str(text), byte_level=byte_level)


def _shown(decoder: codecs.IncrementalDecoder, more: bytes) -> str:
    """Return the text of a token whose bytes follow those that the decoder still holds."""
    held = decoder.getstate()[0]
    text, left = decoder.decode(more), decoder.getstate()[0]
    if "\ufffd" in text:
        decoder.reset()
        return _hex(more)
    if not text:
        return _hex(more)
    # The token that completes a character shows its bytes, and the character.
    begun = f"{_hex(more[: len(text[0].encode()) - len(held)])}→" if held else ""
    return begun + text + _hex(left)


def _hex(data: bytes) -> str:
    return f"⟨{data.hex(' ').upper()}⟩" if data else ""


@cache
def _byte_table() -> dict[str, int]:
    """Return the byte of each character of GPT-2's table: printable ones are themselves, the rest comes from U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(others)}
