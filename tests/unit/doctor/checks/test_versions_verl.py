"""verl's plugin and platform, and variables that break things."""

from __future__ import annotations

from importlib import metadata

import pytest

from agentfly.doctor.checks import versions
from tests.unit.doctor.judged import levels, only

OURS = {(versions.PLUGIN_NAME, versions.PLUGIN)}


def test_the_names_are_those_of_the_entry_point() -> None:
    points = metadata.distribution("agentfly-rl").entry_points.select(group="verl.plugins")
    assert {(point.name, point.value) for point in points} == OURS


@pytest.mark.parametrize(
    ("verl", "registered", "policy", "expected"),
    [
        ("0.9.1", OURS, None, "ok"),
        ("0.9.1", OURS, "other,agentfly_cpu", "ok"),
        ("0.9.1", OURS, "none", "error"),
        ("0.9.1", set(), None, "error"),
        (None, set(), None, "skipped"),
    ],
)
def test_plugin(verl: str | None, registered: set[tuple[str, str]], policy: str | None, expected: str) -> None:
    variables = {} if policy is None else {"VERL_USE_EXTERNAL_PLUGINS": policy}
    assert only(versions.check_plugin(verl, registered, variables))[0] == expected


@pytest.mark.parametrize(
    ("setting", "has_gpu", "expected"),
    [
        ("", False, "ok"),
        ("cpu", False, "ok"),
        ("CPU", True, "warning"),
        ("nvidia", True, "ok"),
        ("nvidia", False, "error"),
        ("cuda", True, "error"),
    ],
)
def test_platform(setting: str, has_gpu: bool, expected: str) -> None:
    assert only(versions.check_verl_platform(setting, has_gpu))[0] == expected


def test_environment() -> None:
    assert levels(versions.check_environment({"VLLM_CPU_KVCACHE_SPACE": "4"})) == ["ok"]
    traps = {"VLLM_CPU_KVCACHE_SPACE": "", "RAY_ADDRESS": "auto", "PYTHONPATH": "/x"}
    assert levels(versions.check_environment(traps)) == ["error", "warning", "warning"]
