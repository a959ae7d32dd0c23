"""Runs that make images from text: `agentfly generate`, and directors and generators. Both are rounds of attempts.

The records are read with tolerance for fields that are missing, since other versions may have written them, and with
none for types, since a record is a file that anybody may have sent. Names of files in it are never opened as they are:
see `image_file`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from agentfly.errors import ConfigError, ImageError
from agentfly.viewer.runs.folder import RunFolder, studio_records

LARGEST_RECORD = 64 * 2**20
LARGEST_IMAGE = 64 * 2**20
RESULT = "result.json"


@dataclass(frozen=True)
class Critique:
    """A judgement of an image.

    Attributes:
        who: director; "" for the only judge of a run.
        score: 0 to 100; None where there is none.
        text: in words.
        aspects: parts of the score.
    """

    who: str
    score: float | None
    text: str
    aspects: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """One image that was asked for.

    Attributes:
        number: of the image in the record, from 0; its address has it.
        who: generator that wrote the prompt; "" where there is one alone.
        prompt, negative: the order.
        file: name in the record; None where there is no image.
        score: 0 to 100; None where nobody scored it.
        critiques: judgements.
        engine: that made it.
        seed: of the engine; None where the record has none.
        seconds: by part.
        fault: the reason that there is no image, or no score.
        stand_in: a placeholder took the place of an image that could not be made.
        best: chosen in the end, or so far.
    """

    number: int
    who: str
    prompt: str
    negative: str
    file: str | None
    score: float | None
    critiques: tuple[Critique, ...]
    engine: str
    seed: int | None
    seconds: Mapping[str, float]
    fault: str | None
    stand_in: bool
    best: bool


@dataclass(frozen=True)
class Round:
    """The attempts of one round, from 1, and the seconds of its phases."""

    number: int
    attempts: tuple[Attempt, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Usage:
    """Requests and tokens of a role; `cost` is in the currency of the settings, None where no price is known."""

    role: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None = None


@dataclass(frozen=True)
class GeneratedRun:
    """A run.

    Attributes:
        name: of the record: "result", or the id of a run of directors and generators.
        prompt: the wish.
        status: "running", or the reason that the run ended.
        error: why there is nothing to see, or why the run ended early.
        started: ISO time; "" where the record has none.
        seconds: of the whole run.
        rounds: in order.
        briefs: director and words.
        personas: name, role and words.
        usage: by role.
        failed_calls: questions to models without a usable answer.
    """

    name: str
    prompt: str
    status: str
    error: str | None
    started: str
    seconds: float
    rounds: tuple[Round, ...]
    briefs: tuple[tuple[str, str], ...] = ()
    personas: tuple[tuple[str, str, str], ...] = ()
    usage: tuple[Usage, ...] = ()
    failed_calls: int = 0

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """All attempts, in order."""
        return tuple(attempt for found in self.rounds for attempt in found.attempts)

    @property
    def best(self) -> Attempt | None:
        """The chosen image."""
        return next((attempt for attempt in self.attempts if attempt.best), None)

    @property
    def running(self) -> bool:
        """The record is one of a run that goes on, or was interrupted."""
        return self.status == "running"


def records(run: RunFolder) -> dict[str, Path]:
    """Return the records of a run's folder by name, the newest first."""
    if run.kind == "generate":
        return {"result": run.folder / RESULT}
    named = [run.path] if run.path != run.folder else studio_records(run.folder)
    return {path.stem: path for path in sorted(named, key=lambda path: path.name, reverse=True)}


def read_record(kind: str, path: Path) -> GeneratedRun:
    """Return the run of a record.

    Args:
        kind: "generate" or "director-generator".
        path: the record.

    Raises:
        ConfigError: it cannot be read, or is no such record.
    """
    try:
        if path.stat().st_size > LARGEST_RECORD:
            raise ConfigError(f"{str(path)!r} has more than {LARGEST_RECORD >> 20} MB, which no run writes")
        data = path.read_bytes()
    except OSError as fault:
        raise ConfigError(f"cannot read {str(path)!r}: {fault.strerror or fault}") from fault
    try:
        if kind == "generate":
            return _of_refinement(path.stem, msgspec.json.decode(data, type=_Result, strict=False))
        return _of_studio(path.stem, msgspec.json.decode(data, type=_Record, strict=False))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise ConfigError(f"{str(path)!r} is no record of a run: {fault}") from fault


def image_file(record: Path, name: str, kind: str) -> bytes:
    """Return the bytes of an image that a record names.

    Args:
        record: the record; its images are in its folder or below.
        name: as the record has it. `agentfly generate` writes whole paths, of which the last part counts, so that a
            run can be moved.
        kind: of the run.

    Raises:
        ImageError: the name leads out of the folder, or there is no such file, or it is too large.
    """
    folder = record.parent.resolve()
    try:
        path = (folder / (Path(name).name if kind == "generate" else name)).resolve()
        if not path.is_relative_to(folder):
            raise ImageError("the image is not in the folder of its run")
        # A pipe would never end, and a link may have been put there since.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(file, "rb") as opened:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_IMAGE:
                raise ImageError(f"the image is no file of at most {LARGEST_IMAGE >> 20} MB")
            return opened.read(LARGEST_IMAGE + 1)
    except (OSError, ValueError) as fault:
        raise ImageError("the image was not kept") from fault


class _Iteration(msgspec.Struct):
    number: int
    engine: str = ""
    score: float | None = None
    aspects: dict[str, float] = {}
    error: str | None = None
    prompter_error: str | None = None
    seconds: dict[str, float] = {}


class _Cost(msgspec.Struct):
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None


class _Result(msgspec.Struct):
    prompt_history: list[str]
    image_history: list[str | None]
    feedback_history: list[str | None]
    iterations: list[_Iteration]
    best_image_url: str | None = None
    stopped: str = ""
    error: str | None = None
    costs: dict[str, _Cost] = {}
    timings: dict[str, float] = {}


class _Said(msgspec.Struct):
    score: float | None = None
    feedback: str = ""


class _Image(msgspec.Struct):
    loop: int
    generator: str
    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    engine: str = ""
    file: str | None = None
    stand_in: bool = False
    fault: str | None = None
    seconds: float = 0.0
    score: float | None = None
    critiques: dict[str, _Said] = {}


class _Call(msgspec.Struct):
    role: str
    agent: str = ""
    data: dict[str, object] = {}
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Phase(msgspec.Struct):
    phase: str
    loop: int
    calls: list[_Call] = []
    images: list[_Image] = []
    seconds: float = 0.0


class _Persona(msgspec.Struct):
    name: str
    persona: str = ""


class _Settings(msgspec.Struct):
    directors: list[_Persona] = []
    generators: list[_Persona] = []


class _Record(msgspec.Struct):
    prompt: str
    phases: list[_Phase]
    settings: _Settings = msgspec.field(default_factory=_Settings)
    started: str = ""
    status: str = ""
    error: str | None = None
    seconds: float = 0.0
    best: _Image | None = None


def _of_refinement(name: str, result: _Result) -> GeneratedRun:
    best = _best_iteration(result)
    rounds = []
    histories = zip(
        result.iterations, result.prompt_history, result.image_history, result.feedback_history, strict=False
    )
    for place, (one, prompt, image, feedback) in enumerate(histories):
        judged = (Critique("", one.score, feedback or "", one.aspects),) if one.score is not None else ()
        unprompted = one.prompter_error and f"no new prompt: {one.prompter_error}"
        faults = [fault for fault in (one.error, unprompted) if fault]
        attempt = Attempt(
            place, "", prompt, "", image, one.score, judged, one.engine, None, one.seconds, "; ".join(faults) or None,
            stand_in=False, best=place == best,
        )  # fmt: skip
        rounds.append(Round(one.number, (attempt,)))
    return GeneratedRun(
        name,
        prompt=result.prompt_history[0] if result.prompt_history else "",
        status=result.stopped,
        error=result.error,
        started="",
        seconds=result.timings.get("total", 0.0),
        rounds=tuple(rounds),
        usage=tuple(
            Usage(role, cost.requests, cost.input_tokens, cost.output_tokens, cost.cost)
            for role, cost in result.costs.items()
        ),
    )


def _best_iteration(result: _Result) -> int | None:
    """Return the place of the best image, which may have been uploaded since; see `Refinement.best`."""
    made = [place for place, image in enumerate(result.image_history[: len(result.iterations)]) if image]
    if result.best_image_url in result.image_history:
        return result.image_history.index(result.best_image_url)
    return max(made, key=lambda place: -1.0 if (s := result.iterations[place].score) is None else s, default=None)


def _of_studio(name: str, record: _Record) -> GeneratedRun:
    rounds: dict[int, list[_Image]] = {}
    seconds: dict[int, dict[str, float]] = {}
    for phase in record.phases:
        seconds.setdefault(phase.loop, {})[phase.phase] = phase.seconds
        rounds.setdefault(phase.loop, []).extend(phase.images)
    number, made = 0, []
    for loop, images in sorted(rounds.items()):
        attempts = []
        for image in images:
            attempts.append(_attempt(number, image, record.best))
            number += 1
        # The briefs are of round 0, which has no images.
        if attempts or loop:
            made.append(Round(loop, tuple(attempts), seconds[loop]))
    calls = [call for phase in record.phases for call in phase.calls]
    briefs = [call for phase in record.phases if phase.phase == "brief" for call in phase.calls]
    return GeneratedRun(
        name,
        record.prompt,
        record.status,
        record.error,
        record.started,
        record.seconds,
        tuple(made),
        tuple((call.agent, str(call.data.get("brief") or call.error or "")) for call in briefs),
        tuple(
            (persona.name, role, persona.persona)
            for role, personas in (("director", record.settings.directors), ("generator", record.settings.generators))
            for persona in personas
        ),
        tuple(_usage(role, [call for call in calls if call.role == role]) for role in ("director", "generator")),
        sum(call.error is not None for call in calls),
    )


def _attempt(number: int, image: _Image, best: _Image | None) -> Attempt:
    return Attempt(
        number,
        image.generator,
        image.prompt,
        image.negative_prompt,
        image.file,
        image.score,
        tuple(Critique(who, said.score, said.feedback) for who, said in image.critiques.items()),
        image.engine,
        image.seed,
        {"paint": image.seconds},
        image.fault,
        image.stand_in,
        best is not None and (best.loop, best.generator) == (image.loop, image.generator),
    )


def _usage(role: str, calls: list[_Call]) -> Usage:
    tokens = sum(call.prompt_tokens for call in calls), sum(call.completion_tokens for call in calls)
    return Usage(role, len(calls), *tokens)
