"""Settings of what a run shows of its chains: the images that it keeps, and the few that its loggers get."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from agentfly.settings import Settings, on_or_off

Kind: TypeAlias = Literal["best", "worst", "alarm", "random"]
GB = 10**9


class KeptImages(Settings):
    """The images of the chains, which are kept in `images/`; see `agentfly.training.recording.image_budget`.

    Attributes:
        max_gb: size of the folder at most, in GB of 10^9 bytes; None for no limit.
    """

    max_gb: float | None = Field(10.0, gt=0)

    @property
    def max_bytes(self) -> int | None:
        """The limit in bytes."""
        return None if self.max_gb is None else int(self.max_gb * GB)


class ShownChains(Settings):
    """The chains of a step that the loggers W&B, Trackio and TensorBoard get as images.

    Attributes:
        kinds: which ones; of each kind one chain of the training and one of a validation.
        every: steps from one to the next that is shown.
        side: pixels of the square that each image fits in.
        max_kb: size of a shown chain as PNG, in kB; a larger one is scaled down.
    """

    kinds: tuple[Kind, ...] = ("best", "worst", "alarm", "random")
    every: int = Field(1, ge=1)
    side: int = Field(320, ge=32, le=2048)
    max_kb: int = Field(400, ge=20)


# true, false, or the settings themselves; false becomes None.
KeptImagesOrNot = Annotated[KeptImages | None, BeforeValidator(on_or_off)]
ShownChainsOrNot = Annotated[ShownChains | None, BeforeValidator(on_or_off)]
