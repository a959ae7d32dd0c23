"""Prompts as GroundingDINO wants them, and boxes as the tools want them."""

from __future__ import annotations

import numpy as np
import pytest

from agentfly.errors import ToolError
from agentfly.vision.detection.boxes import Candidate, clean_label, normalise_prompt, to_detections


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A Cat", "a cat."),
        ("cat. dog", "cat. dog."),
        ("Cat,  the   big DOG;\nbird.", "cat. the big dog. bird."),
        ("...cat...", "cat."),
    ],
)
def test_prompt_is_lower_case_with_a_full_stop_after_each_phrase(prompt: str, expected: str) -> None:
    assert normalise_prompt(prompt) == expected


@pytest.mark.parametrize("prompt", ["", "  ", " . , ."])
def test_a_prompt_that_names_nothing_is_an_observation(prompt: str) -> None:
    with pytest.raises(ToolError, match="names nothing"):
        normalise_prompt(prompt)


def test_labels_lose_stops_and_special_tokens_and_fall_back_to_the_prompt() -> None:
    assert clean_label("[CLS] a cat. dog. [SEP]", "a cat. dog.") == "a cat dog"
    assert clean_label("[SEP]", "a cat. dog.") == "a cat dog"


def test_boxes_are_cut_to_the_image_sorted_and_turned_into_masks() -> None:
    found = to_detections(
        [
            Candidate("low", 0.4, (-5.0, -5.0, 3.2, 2.0)),
            Candidate("high", 1.2, (10.4, 5.0, 99.0, 8.9)),
            Candidate("outside", 0.9, (30.0, 5.0, 40.0, 8.0)),
            Candidate("broken", 0.9, (float("nan"), 0.0, 4.0, 4.0)),
        ],
        (20, 10),
        best_rejected=0.2,
    )
    assert [(one.label, one.score, one.box) for one in found] == [
        ("high", 1.0, (10, 5, 20, 9)),
        ("low", 0.4, (0, 0, 4, 2)),
    ]
    assert found.best_rejected == 0.2
    mask = np.asarray(found[1].mask)
    assert mask.shape == (10, 20)
    assert np.argwhere(mask).max(axis=0).tolist() == [1, 3]
    assert set(np.unique(mask)) == {0, 255}
