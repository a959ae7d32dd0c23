"""The learning curve: right size, something on it, honest about gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agentfly.errors import ConfigError
from agentfly.evaluators.bootstrap import Estimate
from agentfly.training.quickstart.report import StepRecord, learning_curve
from agentfly.training.quickstart.report.curves import smooth

BLUE, NAVY = (0x25, 0x63, 0xEB), (0x1E, 0x3A, 0x8A)


def _steps(count: int) -> list[StepRecord]:
    return [StepRecord(i + 1, 6.0 * i, 0.4 + 0.004 * i, 40 + i, 0.3 + 0.005 * i, 3.0) for i in range(count)]


def _count(path: Path, colour: tuple[int, int, int]) -> int:
    with Image.open(path) as image:
        return int((np.asarray(image.convert("RGB")) == colour).all(axis=-1).sum())


@pytest.mark.slow
def test_curve_has_its_size_and_draws_the_reward(tmp_path: Path) -> None:
    path = learning_curve(_steps(30), tmp_path / "new" / "curve.png", title="A run of $5 & more")
    with Image.open(path) as image:
        assert image.size == (1800, 960)
    assert _count(path, BLUE) > 1000


@pytest.mark.slow
def test_curve_marks_held_out_scores_only_where_given(tmp_path: Path) -> None:
    without = learning_curve(_steps(5), tmp_path / "a.png", title="t")
    marked = learning_curve(_steps(5), tmp_path / "b.png", title="t", trained=Estimate(70, 65, 75))
    assert _count(without, NAVY) == 0
    assert _count(marked, NAVY) > 500


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 250])
def test_curve_takes_runs_of_any_length(tmp_path: Path, count: int) -> None:
    assert _count(learning_curve(_steps(count), tmp_path / "c.png", title="t"), BLUE) > 20


def test_curve_of_no_steps_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one step"):
        learning_curve([], tmp_path / "c.png", title="t")


def test_smoothing_keeps_a_constant_and_skips_what_is_missing() -> None:
    np.testing.assert_allclose(smooth(np.array([2.0, np.nan, 2.0, 2.0])), 2.0)


def test_smoothing_calms_noise_without_moving_the_mean_of_a_line() -> None:
    line = np.linspace(0, 1, 60)
    noisy = line + np.where(np.arange(60) % 2 == 0, 0.1, -0.1)
    assert np.abs(smooth(noisy) - line)[10:-10].max() < 0.02
