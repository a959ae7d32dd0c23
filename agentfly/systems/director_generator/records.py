"""The record of a run: every phase, every call, every image. Plain data that becomes one JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, TypedDict

# In place of a director's name; no persona can be called so.
EVALUATOR, PERSON = "(evaluator)", "(person)"

Phase = Literal["brief", "write", "paint", "critique", "refine"]
Role = Literal["director", "generator"]
Status = Literal["running", "threshold", "max_loops", "recursion_limit", "timeout", "failed"]


class Critique(TypedDict):
    """A director's judgement of an image: a score from 0 to 100, and words."""

    score: float
    feedback: str


@dataclass(frozen=True)
class CallRecord:
    """One question to an agent, with all attempts at it.

    Attributes:
        role, agent: the agent that was asked; `EVALUATOR` for the evaluator.
        model, via: id of the model, and "litellm", "client" or the backend's class.
        system, user: texts of the last attempt.
        images: handles of the images that were shown, in order.
        reply: the agent's words in the last attempt.
        data: content of the reply, as its reader returned it.
        error: the reason that the reply cannot be used; None for a usable one.
        finish_reason: of the last attempt; "" where none came back.
        attempts: questions asked, without the backend's own retries.
        prompt_tokens, completion_tokens: of all attempts, as the server counts them.
    """

    role: Role
    agent: str
    model: str
    via: str
    system: str
    user: str
    images: tuple[str, ...] = ()
    reply: str = ""
    data: Mapping[str, object] = field(default_factory=dict)
    error: str | None = None
    finish_reason: str = ""
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass
class ImageRecord:
    """One image that was asked for.

    Attributes:
        loop, generator: the round, and the generator that wrote the prompt.
        prompt, negative_prompt, seed: the order.
        engine: name of the engine that made it.
        handle: in the run's store; None where there is no image.
        file: path, relative to the result; None where nothing is written.
        stand_in: a placeholder took the place of an image that could not be made; `fault` has the reason.
        fault: the failure; None for an image that was made as asked.
        score: mean of the scores of directors and evaluator (0 to 100), or that of a person who gave one; None while
            nobody has scored it.
        critiques: judgements by director; `EVALUATOR` and `PERSON` stand for those of others.
    """

    loop: int
    generator: str
    prompt: str
    negative_prompt: str
    seed: int
    engine: str = ""
    handle: str | None = None
    file: str | None = None
    stand_in: bool = False
    fault: str | None = None
    seconds: float = 0.0
    score: float | None = None
    critiques: dict[str, Critique] = field(default_factory=dict)


@dataclass
class PhaseRecord:
    """One phase of one round; the brief is of round 0."""

    phase: Phase
    loop: int
    calls: list[CallRecord] = field(default_factory=list)
    images: list[ImageRecord] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class RunRecord:
    """A whole run.

    Attributes:
        id: of the run.
        prompt: the wish.
        settings: in force, without keys.
        started: ISO time, UTC.
        status: the end of the run: a good enough image, all rounds done, the recursion limit, the caller's time limit,
            or a failure.
        error: the reason for each of the last three.
        steps: phases begun.
        phases: in order.
        uploaded_to: place of the best image after an upload.
        best_image_url: address at which everybody sees it, or else that place.
        upload_error: the reason that it was not uploaded, or cannot be seen.
    """

    id: str
    prompt: str
    settings: Mapping[str, object]
    started: str
    status: Status = "running"
    error: str | None = None
    steps: int = 0
    seconds: float = 0.0
    phases: list[PhaseRecord] = field(default_factory=list)
    uploaded_to: str | None = None
    best_image_url: str | None = None
    upload_error: str | None = None

    @property
    def images(self) -> list[ImageRecord]:
        """All images, in order."""
        return [image for phase in self.phases for image in phase.images]

    @property
    def calls(self) -> list[CallRecord]:
        """All calls, in order."""
        return [call for phase in self.phases for call in phase.calls]

    @property
    def best(self) -> ImageRecord | None:
        """The best image of the run; see `best_of`."""
        return best_of(self.images)

    def to_dict(self) -> dict[str, object]:
        """Return the result for JSON."""
        head = {name: value for name, value in vars(self).items() if name != "phases"}
        best = self.best
        return {
            **head,
            "best": None if best is None else asdict(best),
            "counts": self.counts(),
            "phases": [asdict(phase) for phase in self.phases],
        }

    def counts(self) -> dict[str, int]:
        """Count rounds, calls, images, failures and tokens."""
        calls, images = self.calls, self.images
        return {
            "loops": max((phase.loop for phase in self.phases), default=0),
            "calls": len(calls),
            "failed_calls": sum(call.error is not None for call in calls),
            "images": sum(image.handle is not None for image in images),
            "failed_images": sum(image.handle is None for image in images),
            "failovers": sum(image.stand_in for image in images),
            "mock_images": sum(image.engine == "mock" for image in images),
            "prompt_tokens": sum(call.prompt_tokens for call in calls),
            "completion_tokens": sum(call.completion_tokens for call in calls),
        }


def best_of(images: Sequence[ImageRecord]) -> ImageRecord | None:
    """Return the image with the highest score, the earliest of equals; None where nothing has a score.

    A stand-in never ranks above an image that was made as asked, whatever its score.
    """
    scored = [image for image in images if image.score is not None]
    return max(scored, key=lambda image: (not image.stand_in, image.score or 0.0), default=None)
