"""The built-in truth: the orders that are claimed hold, and no attack is worth anything to who knows the answer."""

from __future__ import annotations

import asyncio
from functools import cache

import pytest
from PIL import Image, ImageOps

from agentfly.errors import ConfigError
from agentfly.evaluation.calibration.attacks import ATTACKS, Subject, attack
from agentfly.evaluation.calibration.cases import Material
from agentfly.evaluation.calibration.graded import DAMAGE, built_in_material
from agentfly.evaluation.calibration.run import CalibrationSettings
from agentfly.evaluators import ReferenceEvaluator
from agentfly.images.store import image_hash


@cache
def material() -> Material:
    return built_in_material(6, 3, ATTACKS)


@pytest.mark.slow
def test_each_world_and_family_comes_with_its_grades_and_all_attacks() -> None:
    items, pairs = material().items, material().pairs
    assert len({item.id for item in items}) == len(items)
    groups = {item.group for item in items}
    assert {group.split("-")[1] for group in groups} == {"named", "replace", "two_step", "exposure", "cast"}
    for group in groups:
        names = {item.name for item in items if item.group == group}
        assert {"right", "half", *DAMAGE, *ATTACKS} <= names
    assert {pair.source for pair in pairs} == {"stickers", "retouch"}
    assert {pair.kind for pair in pairs} >= {"right > half", "half > wrong place", "damage 2 % > damage 6 %"}


def test_one_who_knows_the_answer_finds_every_order_as_it_is_claimed() -> None:
    """A grade that is not what its name says would teach people to mistrust a good evaluator."""
    graded = [item for item in material().items if item.kind == "graded"]
    values = {item.id: asyncio.run(ReferenceEvaluator().evaluate(item.make())).value for item in graded}
    wrong = [pair.kind for pair in material().pairs if not values[pair.first] > values[pair.second]]
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_strongest_adjustment_of_the_world_has_all_its_grades(seed: int) -> None:
    """Twice of a cast of 60 is beyond what one adjustment takes; the default number of tasks has such casts."""
    found = built_in_material(CalibrationSettings(evaluator=("reference",)).tasks, seed, {}, side=112)
    casts = [item.group for item in found.items if item.name == "2 × too much"]
    assert len(casts) == 8  # every third task


def test_no_attack_is_the_edit() -> None:
    for item in material().items:
        if item.kind == "attack":
            sample = item.make()
            assert sample.result is not None
            assert sample.target is not None
            assert sample.result.size == sample.source.size
            assert image_hash(sample.result) != image_hash(sample.target)


def test_an_attack_of_your_own_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentfly.evaluation.calibration.attacks.ATTACKS", ours := dict(ATTACKS))

    @attack("upside down")
    def upside_down(subject: Subject) -> Image.Image:
        return ImageOps.flip(subject.source)

    assert ours["upside down"] is upside_down
    with pytest.raises(ConfigError, match="another name"):
        attack("upside down")(lambda subject: subject.source)
