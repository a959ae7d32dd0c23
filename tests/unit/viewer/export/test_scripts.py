"""The modules of the pages as one plain script."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from agentfly.errors import ConfigError
from agentfly.viewer.export.scripts import bundle
from agentfly.viewer.web.render import STATIC

MODULES = sorted(path.name for path in STATIC.glob("*.js") if path.name != "report.js")


def test_every_module_of_the_pages_can_be_bundled() -> None:
    text = bundle(MODULES)
    for name in MODULES:
        assert f'agentfly.modules["{name}"]' in text
    assert "\nimport " not in text
    assert "\nexport " not in text


def test_a_module_brings_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentfly.viewer.export.scripts.STATIC", tmp_path)
    (tmp_path / "a.js").write_text('import { b, c as d } from "./b.js";\nimport "./c.js";\nexport const a = b + d;\n')
    (tmp_path / "b.js").write_text("export const b = 1;\nexport async function c() {}\n")
    (tmp_path / "c.js").write_text("let hidden = 1;\n")
    text = bundle(["a.js"])
    assert 'const { b, c: d } = agentfly.need("b.js");\nagentfly.need("c.js");\nconst a = b + d;' in text
    assert "Object.assign(exports, { b, c });" in text
    assert text.count("agentfly.modules[") == 3


@pytest.mark.parametrize("odd", ['import x from "./b.js";', "export default 1;", 'import * as b from "./b.js";'])
def test_other_forms_are_refused_rather_than_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str) -> None:
    monkeypatch.setattr("agentfly.viewer.export.scripts.STATIC", tmp_path)
    (tmp_path / "a.js").write_text(f"{odd}\n")
    with pytest.raises(ConfigError, match=r"a\.js cannot be exported"):
        bundle(["a.js"])


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_is_one(tmp_path: Path) -> None:
    (tmp_path / "bundle.js").write_text(bundle(MODULES) + (STATIC / "report.js").read_text("utf-8"), encoding="utf-8")
    done = subprocess.run(["node", "--check", "bundle.js"], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
