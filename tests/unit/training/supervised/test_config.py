"""Settings from files and words: later ones win, faults are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfly.errors import ConfigError
from agentfly.training.supervised.config import TrainingConfig, read_config


def test_words_are_laid_over_files(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("model: m\nout: o\ndata: {stickers: 3, max_length: 100}\nlora: {rank: 8}\n")
    config = read_config([str(file), "data.stickers=5", "training.learning_rate=1.0e-4", "data.openai=rows.jsonl"])
    assert (config.data.stickers, config.data.max_length, config.lora.rank) == (5, 100, 8)
    assert config.data.openai == (Path("rows.jsonl"),)
    assert config.training.learning_rate == 1e-4


def test_numbers_may_be_written_as_people_write_them() -> None:
    assert read_config(["model=m", "out=o", "training.learning_rate=1e-4"]).training.learning_rate == 1e-4


def test_the_folder_of_images_may_have_its_old_name(caplog: pytest.LogCaptureFixture) -> None:
    assert read_config(["model=m", "out=o", "data.pictures=kept"]).data.images == Path("kept")
    assert "pictures is now called images" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=m"], "out not given"),
        (["model=m", "out=o", "data.sticker=3"], "Did you mean 'stickers'"),
        (["model=m", "out=o", "epochs=3"], "unknown setting 'epochs'"),
        (["model=m", "out=o", "training=3"], "training has settings of its own"),
        (["model=m", "out=o", "training.steps=many"], "steps"),
        (["model=m", "out=o", "training.batch_size=0"], "batch_size"),
        (["rows.json"], "neither"),
        (["gone.yaml"], "cannot read the settings file 'gone.yaml'"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(words)


def test_epochs_give_steps_unless_steps_are_given() -> None:
    assert TrainingConfig(epochs=3, batch_size=8).loop(100).steps == 38
    assert TrainingConfig(epochs=0.001).loop(100).steps == 1
    assert TrainingConfig(steps=7).loop(100).steps == 7
    assert TrainingConfig(steps=200, warmup=0.1).loop(100).warmup == 20
