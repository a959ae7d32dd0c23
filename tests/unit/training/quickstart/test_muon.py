"""Our Muon takes the steps of torch's, in float32."""

from __future__ import annotations

import pytest
import torch

from agentfly.training.quickstart.muon import Muon, orthogonalised

pytestmark = pytest.mark.slow

SHAPES = ((16, 16), (16, 16), (48, 16), (16, 48))


def weights() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def steps(optimiser: torch.optim.Optimizer, matrices: list[torch.nn.Parameter], count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        optimiser.step()


def test_steps_are_those_of_torch_up_to_bfloat16() -> None:
    ours, theirs, before = weights(), weights(), weights()
    steps(Muon(ours, lr=0.02), ours, 3)
    steps(torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"), theirs, 3)
    for mine, other, start in zip(ours, theirs, before, strict=True):
        assert (mine - other).norm() < 0.02 * (mine - start).norm()


@pytest.mark.parametrize("shape", [(2, 8, 24), (2, 24, 8)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    found = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=torch.Generator().manual_seed(2))))
    assert found.min() > 0.5
    assert found.max() < 1.3


def test_a_matrix_without_gradient_stays() -> None:
    matrices = weights()
    optimiser = Muon(matrices, lr=0.1)
    matrices[0].grad = torch.ones_like(matrices[0])
    untouched = matrices[1].detach().clone()
    optimiser.step()
    assert torch.equal(matrices[1], untouched)
    assert not torch.equal(matrices[0], weights()[0])


def test_momentum_survives_a_checkpoint() -> None:
    whole, first = weights(), weights()
    steps(Muon(whole, lr=0.02), whole, 2)
    optimiser = Muon(first, lr=0.02)
    generator = torch.Generator().manual_seed(1)
    for turn in range(2):
        if turn == 1:
            state = optimiser.state_dict()
            optimiser = Muon(first, lr=0.02)
            optimiser.load_state_dict(state)
        for matrix in first:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, first, strict=True))
