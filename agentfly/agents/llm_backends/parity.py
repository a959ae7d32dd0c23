"""Compare the prompt that a server worked on with the exact ids of the rollout; a difference is an error."""

from __future__ import annotations

from collections.abc import Sequence

from agentfly.errors import BackendError


def check_prompt(theirs: Sequence[int], ours: Sequence[int], advice: str) -> None:
    """Compare the prompt that vLLM worked on with the exact ids of the request.

    Args:
        theirs: ids that vLLM reports, placeholders expanded.
        ours: ids that training will see.
        advice: what to do about a difference.

    Raises:
        BackendError: they differ; the message names the first difference.
    """
    if list(theirs) == list(ours):
        return
    pairs = zip(theirs, ours, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(theirs), len(ours)))
    raise BackendError(
        f"vLLM's prompt ({len(theirs)} ids) is not the rollout's ({len(ours)} ids); first difference at {first}: "
        f"vLLM {list(theirs[first : first + 4])}, rollout {list(ours[first : first + 4])}. {advice}"
    )
