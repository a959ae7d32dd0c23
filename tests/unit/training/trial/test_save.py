"""The folder of a trial is replaced only when nobody writes to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from agentfly.agents.trajectory_file import FILE_NAME
from agentfly.errors import ConfigError
from agentfly.files import LineFile
from agentfly.training.trial.save import MARKER, TrialFolder


def test_a_trial_that_is_running_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("{}")
    writing = LineFile(tmp_path / FILE_NAME, "a trial")
    writing.append("{}")
    with pytest.raises(ConfigError):
        TrialFolder(tmp_path, cast(Any, None))
    assert (tmp_path / FILE_NAME).read_text() == "{}\n"
    writing.close()
