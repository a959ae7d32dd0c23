"""The authors' prompts: read from their files without running them, or downloaded once; what is missing is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentfly.errors import ConfigError, ImageError
from agentfly.evaluation.protocols import PROTOCOLS, prompts
from agentfly.evaluation.protocols.base import PromptFile, Split
from agentfly.evaluation.protocols.prompts import fill, read_prompts
from tests.unit.evaluation.protocols.authors import gedit_prompts, write

GEDIT = PROTOCOLS["gedit"]


def read(root: Path, source: str, *names: str) -> dict[str, str]:
    split = Split(prompts=(PromptFile("deep/p.py", names),))
    write(root, "deep/p.py", source)
    return dict(read_prompts(replace(GEDIT, splits={"s": split}), "s", root).texts)


def test_the_root_may_be_any_folder_on_the_way_to_the_file(tmp_path: Path) -> None:
    root = gedit_prompts(tmp_path)
    found = [
        read_prompts(GEDIT, "en", folder) for folder in (root, root / "GEdit-Bench", root / "GEdit-Bench/viescore")
    ]
    assert {one.digest for one in found} == {found[0].digest}
    assert found[0].texts["_prompts_0shot_rule_PQ"] == "QUALITY"
    file = root / "GEdit-Bench/viescore/vie_prompts.py"
    file.write_text(file.read_text().replace("QUALITY", "QUALITY!"))
    assert read_prompts(GEDIT, "en", root).digest != found[0].digest


def test_only_plain_texts_are_read_and_nothing_is_run(tmp_path: Path) -> None:
    source = "import os\nos.abort()\na = 'old'\na = '''one\n{x}'''\nb = 'two' 'three'\nclass C:\n    a = 'inner'\n"
    assert read(tmp_path, source, "a", "b") == {"a": "one\n{x}", "b": "twothree"}
    for wrong in ("a = open('/etc/passwd').read()", "a = f'{1}'", "a = 'x' + 'y'", "b = 'x'", "a = 'x'\na = 3"):
        with pytest.raises(ConfigError, match="has no plain text a: it is of another version"):
            read(tmp_path, wrong, "a")
    with pytest.raises(ConfigError, match="cannot read the prompts"):
        read(tmp_path, "a = (", "a")


def test_a_file_that_is_not_there_names_the_clone(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"has no GEdit-Bench/viescore/vie_prompts\.py: name a clone of https://github"
    ):
        read_prompts(GEDIT, "en", tmp_path)


def test_prompts_are_downloaded_once_from_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (gedit_prompts(tmp_path) / "GEdit-Bench/viescore/vie_prompts.py").read_bytes()
    urls: list[str] = []

    def fetch(url: str, **limits: float) -> bytes:
        urls.append(url)
        assert limits.keys() == {"timeout", "max_bytes"}
        return text

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(prompts, "fetch", fetch)
    first, second = read_prompts(GEDIT, "en", None), read_prompts(GEDIT, "cn", None)
    assert (first.digest, first.source) == (second.digest, second.source)
    (url,) = urls
    assert url == (
        f"https://raw.githubusercontent.com/stepfun-ai/Step1X-Edit/{GEDIT.commit}/GEdit-Bench/viescore/vie_prompts.py"
    )
    assert first.digest == read_prompts(GEDIT, "en", tmp_path).digest


def test_without_a_network_the_option_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, **limits: float) -> bytes:
        raise ImageError("did not answer")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(prompts, "fetch", fetch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(ConfigError, match=r"cannot be downloaded \(did not answer\): clone .* --protocol-root FOLDER"):
        read_prompts(GEDIT, "en", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="downloads are off"):
        read_prompts(GEDIT, "en", None)


def test_only_plain_fields_are_filled_in() -> None:
    values = {"instruct": "a {b} c", "N": "3"}
    assert fill('{{"x": 1}} {instruct} {N}', values) == '{"x": 1} a {b} c 3'
    for wrong in ("{other}", "{instruct:>999999999}", "{instruct!r}", "{instruct.__class__}", "{0}", "{"):
        with pytest.raises(ConfigError, match="a prompt of the authors"):
            fill(wrong, values)
