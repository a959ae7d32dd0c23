"""The requests, tokens and cost of one part of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Usage:
    """An account.

    Attributes:
        requests: answered or not.
        input_tokens, output_tokens: as the server counts them.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, other: Usage) -> None:
        """Add another account to this one."""
        self.requests += other.requests
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens

    def to_dict(self, input_price: float | None, output_price: float | None) -> dict[str, Any]:
        """For JSON, with the cost by prices of a million tokens; None where there are no prices."""
        cost = None
        if input_price is not None and output_price is not None:
            cost = round((self.input_tokens * input_price + self.output_tokens * output_price) / 1e6, 6)
        return {**vars(self), "cost": cost}
