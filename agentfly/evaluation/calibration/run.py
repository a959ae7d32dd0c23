"""`agentfly calibrate`: measure evaluators, write the report, and leave a record of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from agentfly.datasets.public.preferences import load_preferences
from agentfly.errors import AgentFlyError, ConfigError, EvaluatorError
from agentfly.evaluation.calibration.attacks import ATTACKS, Attack
from agentfly.evaluation.calibration.cases import Material
from agentfly.evaluation.calibration.graded import built_in_material
from agentfly.evaluation.calibration.measure import Measurement, measure
from agentfly.evaluation.calibration.page import write_page
from agentfly.evaluation.calibration.people import people_material
from agentfly.evaluation.calibration.record import record_folder, write_record
from agentfly.evaluation.calibration.report import make_report, record_of, scores_of
from agentfly.evaluation.scoring import Given, Spec, metered, read_specs
from agentfly.evaluation.settings import refuse_keys
from agentfly.evaluators import check_ready, close_evaluator
from agentfly.evaluators.base import objections
from agentfly.files import encodable, write_text
from agentfly.importing import import_object
from agentfly.settings import OutputPath, Settings

JSON_FILE, PAGE_FILE, SCORES_FILE = "calibration.json", "calibration.html", "scores.jsonl"
Progress = Callable[[str, int, int], None]


class CalibrationSettings(Settings):
    """The settings of a calibration.

    Attributes:
        evaluator: specs of evaluators; see `agentfly.evaluation.scoring`.
        data: people's verdicts: names of `PREFERENCE_SOURCES`, or files of `agentfly view RUN --ratings FILE.jsonl`.
        out: folder of the report.
        tasks: tasks of the built-in worlds.
        seed: of the built-in worlds.
        repeats: further scorings of the samples in pairs.
        limit: verdicts of each data set at most; None for all.
        root: folder with the downloaded files of a benchmark.
        attack: attacks of your own as "module:function", beside the built-in ones.
        records: folder of the records; None for the default one.
        concurrency: samples that are scored at once.
    """

    written_as: ClassVar[str] = "--"

    evaluator: tuple[Given, ...] = Field(min_length=1)
    data: tuple[str, ...] = ()
    out: OutputPath = Path("runs/calibration")
    tasks: int = Field(24, ge=1, le=10_000)
    seed: int = 0
    repeats: int = Field(1, ge=0, le=100)
    limit: int | None = Field(None, ge=1)
    root: Path | None = None
    attack: tuple[str, ...] = ()
    records: Path | None = None
    concurrency: int = Field(8, ge=1)


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        report: content of `calibration.json`.
        page: path of the HTML report.
        records: paths of the records by evaluator; one that scored no pair has none.
    """

    report: Mapping[str, Any]
    page: Path
    records: Mapping[str, Path]

    def silent(self) -> dict[str, str]:
        """Return the evaluators that scored no pair, each with the reason that it gave most often."""
        return {
            label: next(iter(figures["reasons"]), "it gave no reason")
            for label, figures in self.report["evaluators"].items()
            if _scored_no_pair(figures)
        }


async def calibrate(settings: CalibrationSettings, progress: Progress | None = None) -> Calibration:
    """Measure evaluators, and write the report and the records.

    If one cannot go on, such as for a key that is refused meanwhile, the report is on those that were measured before.

    Args:
        settings: of the calibration.
        progress: called with the label of an evaluator, the number of scorings that are done, and of all.

    Raises:
        ConfigError: an evaluator, a source of data or an attack is set up wrongly.
        DatasetError: the data cannot be read.
        EvaluatorError: a server that an evaluator asks does not answer.
        OSError: the report cannot be written.
    """
    specs = _read_evaluators(settings.evaluator)
    await _require_ready(specs)
    material = gather_material(settings)
    measured: list[Measurement] = []
    for label, spec in specs.items():

        def told(done: int, total: int, label: str = label) -> None:
            if progress is not None:
                progress(label, done, total)

        counts = {"repeats": settings.repeats, "in_flight": settings.concurrency}
        try:
            measured.append(await measure(label, spec, material, **counts, progress=told))
        except AgentFlyError as fault:
            if not measured:
                raise
            page = _finish(settings, specs, measured, material).page
            others = ", ".join(one.label for one in measured)
            raise type(fault)(f"{label}: {fault}; the report on {others} is {page}") from fault
    return _finish(settings, specs, measured, material)


async def _require_ready(specs: Mapping[str, Spec]) -> None:
    """Raise `EvaluatorError` unless all evaluators could score now, before the first is measured for minutes."""
    made = {label: metered(spec) for label, spec in specs.items()}
    try:
        faults = await objections({label: check_ready(evaluator) for label, evaluator in made.items()})
    finally:
        for evaluator in made.values():
            await close_evaluator(evaluator)
    if faults:
        raise EvaluatorError("; ".join(faults))


def _scored_no_pair(figures: Mapping[str, Any]) -> bool:
    return bool(figures["accuracy"]["pairs"] or figures["accuracy"]["missing"]) and figures["accuracy"]["share"] is None


def _finish(
    settings: CalibrationSettings, specs: Mapping[str, Spec], measured: Sequence[Measurement], material: Material
) -> Calibration:
    """Write the report on what was measured, and the records."""
    specs = {one.label: specs[one.label] for one in measured}
    about = {
        "tasks": settings.tasks,
        "seed": settings.seed,
        "repeats": settings.repeats,
        "in_flight": settings.concurrency,
        "data": list(settings.data),
    }
    report = make_report(specs, measured, material, about)
    page = _write(settings.out, report, measured, material)
    folder = record_folder(settings.records)
    records = {
        label: write_record(record_of(figures, settings.tasks), folder)
        for label, figures in report["evaluators"].items()
        if not _scored_no_pair(figures)
    }
    return Calibration(report, page, records)


def _read_evaluators(given: Sequence[Given]) -> dict[str, Spec]:
    specs = read_specs(given)
    for label, spec in specs.items():
        refuse_keys(spec)
        if "reward" in spec:
            raise ConfigError(f"{label} is a reward function of whole chains, which has no score of a pair of images")
    return specs


def _write(out: Path, report: Mapping[str, Any], measured: Sequence[Measurement], material: Material) -> Path:
    """Write the report, the scores and the page, and return the path of the page."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / JSON_FILE, json.dumps(encodable(report), indent=2, ensure_ascii=False) + "\n")
    lines = (json.dumps(encodable(line), ensure_ascii=False) for line in scores_of(measured, material))
    write_text(out / SCORES_FILE, "".join(f"{line}\n" for line in lines))
    return write_page(out / PAGE_FILE, report, material)


def gather_material(settings: CalibrationSettings) -> Material:
    """Return the material of a calibration: the built-in worlds with all attacks, and people's verdicts.

    Raises:
        ConfigError: an attack or a source of data is unknown.
        DatasetError: the data cannot be read.
    """
    material = built_in_material(settings.tasks, settings.seed, {**ATTACKS, **_own_attacks(settings.attack)})
    for source in settings.data:
        verdicts = load_preferences(source, root=settings.root, limit=settings.limit)
        name = Path(source).stem if source.endswith(".jsonl") else source
        found = people_material(name, verdicts)
        if not found.items:
            raise ConfigError(f"{source} has no verdict whose images are still there")
        material = material.joined(found)
    return material


def _own_attacks(given: Sequence[str]) -> dict[str, Attack]:
    """Return the attacks that are named as module:function; the decorator has registered those of its module."""
    found: dict[str, Attack] = {}
    for name in given:
        function = import_object(name, "attack")
        if not callable(function):
            raise ConfigError(f"--attack {name}: this is no function from a Subject to an image")
        label = next((label for label, known in ATTACKS.items() if known is function), name.partition(":")[2])
        found[label] = function
    return found
