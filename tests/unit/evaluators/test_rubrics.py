"""Rubrics: one file for judge and prompter, and faults that name the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfly.errors import ConfigError
from agentfly.evaluators import available_rubrics, load_rubric


@pytest.mark.parametrize("name", ["general", "jewelry"])
def test_each_packaged_rubric_serves_judge_and_prompter(name: str) -> None:
    rubric = load_rubric(name)
    assert rubric.name == name
    for criterion in rubric.criteria:
        assert criterion.ask in rubric.for_judge()
        assert criterion.ask in rubric.for_prompter()
    for weakness, fix in rubric.fixes.items():
        assert f"{weakness}: {fix}" in rubric.for_prompter()
        assert fix not in rubric.for_judge()


def test_the_packaged_ones_are_listed() -> None:
    assert {"general", "jewelry"} <= set(available_rubrics())


def test_a_rubric_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "cars.yaml"
    text = "name: cars\npurpose: car ads.\ncriteria:\n  - name: paint\n    ask: Does it shine?\n"
    file.write_text(text, encoding="utf-8")
    assert "Does it shine?" in load_rubric(file).for_judge()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\npurpose: y\ncriteria: []\n", "criteria"),
        ("name: x\npurpose: y\ncriteria: [{name: a, ask: b}]\nweight: 2\n", "weight"),
        ("- a list\n", "holds no settings"),
        ("1: 2\n", "has the name 1: names are words"),
        ("{", "is not valid YAML: line 2, column 1"),
    ],
)
def test_a_broken_rubric_names_its_fault(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_rubric(file)


def test_an_unknown_one_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'jewelry'"):
        load_rubric("jewellery")
    with pytest.raises(ConfigError, match="cannot read"):
        load_rubric(tmp_path / "none.yaml")
