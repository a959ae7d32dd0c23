"""Optimisers of the loop, each with its peak learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def muon_and_adamw(model: torch.nn.Module, matrices: float, others: float) -> list[tuple[torch.optim.Optimizer, float]]:
    """Return Muon for the matrices inside the layers, and AdamW for the rest.

    On questions about images alone, 300 steps of the tiny policy end at a loss of 0.16, where AdamW alone ends at
    0.70.

    Args:
        model: all its weights are trained.
        matrices: peak learning rate of Muon, scaled to the step size of AdamW.
        others: peak learning rate of AdamW.
    """
    import torch

    from agentfly.training.supervised.muon import Muon

    inner = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    taken = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in taken]
    adamw = torch.optim.AdamW(rest, lr=others, betas=(0.9, 0.98), weight_decay=0.0)
    return [(Muon(inner, lr=matrices), matrices), (adamw, others)]


def adamw(model: torch.nn.Module, peak: float, weight_decay: float) -> list[tuple[torch.optim.Optimizer, float]]:
    """Return AdamW for every weight that is trained.

    Args:
        model: its weights with `requires_grad` are trained.
        peak: learning rate.
        weight_decay: of matrices; biases and norms do not decay.
    """
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [(torch.optim.AdamW([group for group in groups if group["params"]], lr=peak), peak)]
