"""docs/models.md says of each family what its entry says, and why a family is not supported further."""

from __future__ import annotations

import re
from pathlib import Path

from agentfly.templates.families import CALL_FORMS, FAMILIES, LEVELS

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def rows(*, columns: int) -> list[list[str]]:
    """Cells of the tables with so many columns, without their heads."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    found = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [cells for cells in found if len(cells) == columns]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def test_the_table_has_every_model_type_with_its_level_templates_and_calls() -> None:
    told = {
        (model_type, title, level, goal, untried.strip("–"), frozenset(words(templates)), *words(calls))
        for title, types, level, goal, untried, templates, calls in rows(columns=7)[1:]
        for model_type in words(types)
    }
    known = {
        (
            model_type,
            family.title,
            support.level,
            support.goal,
            ", ".join(support.untried),
            frozenset(family.templates),
            family.calls.name,
        )
        for family in FAMILIES.values()
        for model_type, support in family.support.items()
    }
    assert told == known
    assert all(f"**{level}**" in PAGE for level in LEVELS)


def test_every_limit_is_told_with_its_place_upstream() -> None:
    limits = {limit for family in FAMILIES.values() for support in family.support.values() for limit in support.limits}
    flat = " ".join(PAGE.split())
    assert {limit for limit in limits if limit not in flat} == set()
    assert all(re.search(r"\.py:\d+", limit) for limit in limits)


def test_every_form_of_calls_is_shown() -> None:
    shown = {name: call for [form, call] in rows(columns=2)[1:] for name in words(form)}
    assert shown.keys() == {form.name for form in CALL_FORMS}
    for form in CALL_FORMS:
        assert form.mark in shown[form.name].replace("\\|", "|")
