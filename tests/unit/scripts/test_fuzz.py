"""scripts/fuzz.py: an input is known by its number, what breaks is reported by it, and a short run finds nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
from PIL import Image

from tests.fuzz.exchanges import boxes, chat_reply, image_reply, rows
from tests.fuzz.images import source
from tests.fuzz.texts import Make, text

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPTS / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module  # where `dataclass` looks up annotations
    path = list(sys.path)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path[:] = path


class Breaking:
    """A part whose third case does something."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act, self.given, self.stopped = act, 0, False

    async def start(self) -> None:
        """Do nothing."""

    async def case(self, random: Random) -> None:
        """Act in the third case."""
        self.given += 1
        if self.given == 3:
            self._act()

    async def stop(self) -> None:
        """Note it."""
        self.stopped = True


def logs_a_bug() -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logging.getLogger("agentfly.x").exception("chain %s failed", "c")


def raises() -> None:
    raise KeyError("a bug")


@pytest.mark.parametrize(("act", "words"), [(raises, "KeyError: 'a bug'"), (logs_a_bug, "ZeroDivisionError")])
def test_what_breaks_is_reported_by_its_number(
    act: Callable[[], None],
    words: str,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    part = Breaking(act)
    monkeypatch.setitem(script.PARTS, "parsing", lambda: part)
    assert script.main(["--part", "parsing", "--seed", "40", "--cases", "9"]) == 1
    said = capsys.readouterr().out
    assert words in said
    assert "python scripts/fuzz.py --part parsing --seed 42 --cases 1" in said
    assert (part.given, part.stopped) == (3, True)


@pytest.mark.slow
def test_time_that_grows_faster_than_the_text_is_found(script: ModuleType) -> None:
    check_growth = sys.modules["fuzz_parts"].check_growth
    check_growth(lambda text: sum(ord(char) for char in text), "x" * 1_000_000)
    with pytest.raises(script.Broken, match="far less for a quarter"):
        check_growth(lambda text: sum(char == other for char in text for other in text), "x" * 1000)


@pytest.mark.slow
@pytest.mark.parametrize("make", [text, source, boxes, chat_reply, image_reply, lambda random: rows(random, [1])])
def test_a_case_is_the_same_input_in_every_run(make: Make[object]) -> None:
    for number in range(20):
        made = [make(Random(f"a part {number}")) for _ in range(2)]
        assert repr(made[0]) == repr(made[1]) or isinstance(made[0], Image.Image)


FAST = ("parsing", "loading", "chains", "chats", "servers", "rows")


@pytest.mark.parametrize("name", [*FAST, pytest.param("requests", marks=pytest.mark.slow)])
def test_a_short_run_finds_nothing(name: str, script: ModuleType) -> None:
    found, counts = asyncio.run(script.fuzz([name], seed=30, seconds=60.0, cases=12))
    assert not found, str(found[0])
    assert counts == {name: 12}


def test_every_part_is_in_the_short_run(script: ModuleType) -> None:
    assert {*FAST, "requests"} == script.PARTS.keys()
