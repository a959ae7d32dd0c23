"""The loop's arithmetic: weights of examples, micro-batches, order, and losses that stop it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agentfly.errors import TrainingError
from agentfly.training.supervised.data.batches import Collator, micro_batches
from agentfly.training.supervised.data.examples import IGNORED, Example
from agentfly.training.supervised.loop import Loop, LoopConfig, Step, schedule
from agentfly.training.supervised.trainer import adamw

NONE = np.zeros((0, 0), np.float32)
ONE = Example((5, 6, 7), (IGNORED, IGNORED, 7), NONE, ())
FOUR = Example((5, 6, 7, 8, 9), (IGNORED, 6, 7, 8, 9), NONE, ())
COLLATE = Collator(pad=0, image=-1)


@pytest.fixture(scope="module")
def model(small_policy: Path) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(small_policy, dtype=torch.float32)


def loss_alone(model: Any, example: Example) -> float:
    import torch

    return float(model(input_ids=torch.tensor([example.ids]), labels=torch.tensor([example.labels])).loss.detach())


@pytest.mark.parametrize(("power", "weights"), [(0.0, (1, 1)), (0.5, (1, 2)), (1.0, (1, 4))])
def test_an_example_weighs_as_its_labels_to_a_power(model: Any, power: float, weights: tuple[int, int]) -> None:
    loop = Loop(model, [], LoopConfig(label_power=power), COLLATE)
    wanted = sum(w * loss_alone(model, e) for w, e in zip(weights, (ONE, FOUR), strict=True)) / sum(weights)
    assert loop.backward([ONE, FOUR]) == pytest.approx(wanted, rel=1e-5)
    model.zero_grad(set_to_none=True)


def gradients(model: Any, workers: int = 1, **settings: Any) -> Any:
    import torch

    model.zero_grad(set_to_none=True)
    loop = Loop(model, [], LoopConfig(label_power=1.0, **settings), COLLATE, workers=workers)
    loss = loop.backward([ONE, ONE, FOUR])
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return loss, flat


@pytest.mark.parametrize("settings", [{"micro_batch": 1}, {"micro_batch_tokens": 6}, {"labelled_logits": True}])
def test_how_a_batch_is_computed_does_not_change_its_gradient(model: Any, settings: dict[str, Any]) -> None:
    loss, gradient = gradients(model)
    other_loss, other = gradients(model, **settings)
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert float((gradient - other).abs().max()) < 1e-6


def test_threads_change_no_bit_of_a_gradient(model: Any) -> None:
    """Gradients are added in one order, independent of the threads."""
    import torch

    two = gradients(model, workers=2, micro_batch=1)
    three = gradients(model, workers=3, micro_batch=1)
    assert two[0] == three[0]
    assert torch.equal(two[1], three[1])
    one = gradients(model, micro_batch=1)
    assert float((two[1] - one[1]).abs().max()) < 1e-6


def test_the_held_out_loss_is_a_mean_over_labels(model: Any) -> None:
    loop = Loop(model, [], LoopConfig(micro_batch=1), COLLATE)
    assert loop.evaluate([FOUR, ONE]) == pytest.approx(
        (loss_alone(model, ONE) + 4 * loss_alone(model, FOUR)) / 5, rel=1e-5
    )


@pytest.mark.parametrize(
    ("lengths", "count", "tokens", "wanted"),
    [
        ([3, 3, 5], 8, None, [3]),
        ([3, 3, 5], 2, None, [2, 1]),
        ([3, 3, 5], 8, 10, [2, 1]),
        ([3, 3, 5], 8, 15, [3]),
        ([3, 50, 60], 8, 10, [1, 1, 1]),
    ],
)
def test_micro_batches_count_their_padding(
    lengths: list[int], count: int, tokens: int | None, wanted: list[int]
) -> None:
    batch = [Example((1,) * length, (1,) * length, NONE, ()) for length in lengths]
    spans = list(micro_batches(batch, count, tokens))
    assert [len(batch[span]) for span in spans] == wanted


def test_a_loop_that_goes_on_draws_what_would_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(done: int) -> list[list[int]]:
        seen: list[list[int]] = []

        def step(self: Loop, step: int, batch: list[Example]) -> Step:
            seen.append([example.ids[0] for example in batch])
            return Step(step + 1, 0.0, 0.0, 0.0, 0, 0, 0.0)

        monkeypatch.setattr(Loop, "_step", step)
        model = SimpleNamespace(train=lambda: None)
        samples = [Example((i,), (i,), NONE, ()) for i in range(5)]
        Loop(model, [], LoopConfig(steps=6, batch_size=3, seed=4), COLLATE).run(samples, done=done)
        return seen

    assert drawn(4) == drawn(0)[4:]
    assert sorted(i for batch in drawn(0)[:5] for i in batch) == sorted(list(range(5)) * 3)


def test_the_schedule_warms_up_and_comes_down() -> None:
    config = LoopConfig(steps=100, warmup=10)
    assert schedule(0, config) == pytest.approx(0.1, rel=0.01)
    assert schedule(9, config) == pytest.approx(1.0, rel=0.03)
    assert schedule(99, config) == 0.05
    assert schedule(0, LoopConfig(steps=1, warmup=0)) == 1.0


def test_a_loss_that_is_no_number_stops_the_run(small_policy: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(small_policy, dtype=torch.float32)
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    loop = Loop(model, adamw(model, 1e-3, 0.0), LoopConfig(steps=1, batch_size=1), COLLATE)
    with pytest.raises(TrainingError, match=r"step 1: loss nan.*learning rate"):
        loop.run([FOUR])
