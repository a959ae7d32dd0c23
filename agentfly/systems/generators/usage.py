"""The requests, tokens and cost of a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Usage:
    """An account of requests and tokens.

    Attributes:
        requests: requests sent, answered or not.
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

    def to_dict(self, input_price: float | None, output_price: float | None) -> dict[str, int | float | None]:
        """Return the account for JSON, with its cost; the cost is None where a price is.

        Args:
            input_price, output_price: of a million tokens, in any currency.
        """
        cost = None
        if input_price is not None and output_price is not None:
            cost = round((self.input_tokens * input_price + self.output_tokens * output_price) / 1e6, 6)
        return {**vars(self), "cost": cost}
