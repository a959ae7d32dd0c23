"""The same replies through the authors' own scripts, where clones of their repositories are at hand.

    mkdir benchmarks-of-others && cd benchmarks-of-others
    git clone https://github.com/stepfun-ai/Step1X-Edit
    GIT_LFS_SKIP_SMUDGE=1 git clone https://github.com/PKU-YuanGroup/ImgEdit
    GIT_LFS_SKIP_SMUDGE=1 git clone https://github.com/PhoenixZ810/RISEBench
    python -m venv scripts && scripts/bin/pip install megfile pandas regex requests tqdm xlsxwriter
    export AGENTFLY_BENCHMARKS=$PWD AGENTFLY_BENCHMARKS_PYTHON=$PWD/scripts/bin/python

The scripts run in an environment of their own, for their packages are no requirements of ours. Without these the tests
are skipped, and say which of them is missing.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentfly.evaluation.protocols import gedit, imgedit, risebench
from agentfly.evaluation.protocols.base import Row
from agentfly.evaluation.protocols.figures import Figure, figure

GEDIT_TYPES = (
    *("background_change", "color_alter", "material_alter", "motion_change", "ps_human", "style_change"),
    *("subject-add", "subject-remove", "subject-replace", "text_change", "tone_transfer"),
)


PYTHON = os.environ.get("AGENTFLY_BENCHMARKS_PYTHON", sys.executable)
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def clone(repository: str, script: str, *packages: str) -> Path:
    """Return the folder of a script in a clone; skip where the clone or a package that it imports is missing."""
    parent, (owner, _, name) = os.environ.get("AGENTFLY_BENCHMARKS"), repository.partition("/")
    if parent is None or not (Path(parent) / name / script).is_file():
        where = f"in {parent}" if parent else "in a folder, and export AGENTFLY_BENCHMARKS=FOLDER"
        pytest.skip(f"no {script} of {owner}: GIT_LFS_SKIP_SMUDGE=1 git clone https://github.com/{repository} {where}")
    missing = subprocess.run(
        [PYTHON, "-c", f"import {', '.join(packages)}"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if packages and missing.returncode:
        pytest.skip(
            f"{missing.stderr.splitlines()[-1]}: python -m venv ENV && ENV/bin/pip install {' '.join(packages)}, and "
            "export AGENTFLY_BENCHMARKS_PYTHON=ENV/bin/python"
        )
    return (Path(parent) / name / script).resolve().parent


def run(folder: Path, *arguments: object, given: str | None = None) -> str:
    command = [PYTHON, *map(str, arguments)]
    # Importing megfile alone takes seconds, and longer on a busy machine.
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, input=given, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_name(found: list[Figure]) -> dict[tuple[str, str | None], float]:
    return {(one["name"], one["group"]): one["mean"] for one in found}


def test_imgedit(tmp_path: Path) -> None:
    scripts = clone("PKU-YuanGroup/ImgEdit", "Benchmark/Basic/step1_get_avgscore.py")
    rng = random.Random(0)
    replies, entries, rows = {}, {}, []
    for number in range(60):
        key, kind = str(number), rng.choice(("add", "adjust", "style", "remove"))
        ratings = [rng.randint(1, 5) for _ in range(3)]
        replies[key] = "Brief reasoning: so: so.\n" + "\n".join(f"Part {n}: {r}" for n, r in enumerate(ratings))
        entries[key] = {"id": "a.png", "prompt": "x", "edit_type": kind}
        rating = {"score": imgedit.read_average(replies[key])}
        rows.append(Row(key, kind, imgedit.score(rating, {})[1], {}))
    for name, content in (("result", replies), ("edit", entries)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    averages, types = tmp_path / "average.json", tmp_path / "types.json"
    run(scripts, "step1_get_avgscore.py", "--result_json", tmp_path / "result.json", "--average_score_json", averages)
    # The command of the second script forgets one of its options: its function is called.
    code = (
        "import json, sys, step2_typescore as s; a, e = (json.load(open(p)) for p in sys.argv[1:]);"
        "print(json.dumps(s.compute_edit_type_averages(a, e)))"
    )
    types = json.loads(run(scripts, "-c", code, averages, tmp_path / "edit.json"))
    ours = by_name([figure(measure) for measure in imgedit.measures(rows)])
    assert {kind: round(ours["score", kind], 2) for kind in types} == types


def test_gedit(tmp_path: Path) -> None:
    scripts = clone("stepfun-ai/Step1X-Edit", "GEdit-Bench/calculate_statistics.py", "megfile", "pandas", "regex")
    rng = random.Random(1)
    forms = (
        '{{"score": [{}, {}], "reasoning": "r"}}',
        '||V^=^V||\n{{"score" : [{}, {}],\n"reasoning" : "r"}}\n||V^=^V||',
        "[{}, {}]",
        'Well: {{"score": [{}, {}], "reasoning": "r"}} so.',
    )
    replies = [
        (kind, [rng.choice(forms).format(rng.randint(0, 10), rng.randint(0, 10)) for _ in range(2)], rng.random() < 0.6)
        for kind in GEDIT_TYPES
        for _ in range(6)
    ]
    replies += [(kind, [forms[0].format(7, 8), forms[0].format(5, 9)], True) for kind in GEDIT_TYPES]
    code = (
        "import json, sys; sys.path.insert(0, 'viescore'); from utils import mllm_output_to_dict as read;"
        "print('RESULT' + json.dumps([[min(read(t)['score']) for t in pair] for pair in json.load(sys.stdin)]))"
    )
    printed = run(scripts, "-c", code, given=json.dumps([pair for _, pair, _ in replies]))
    theirs = json.loads(printed.partition("RESULT")[2])
    assert theirs == [[min(gedit.read_scores(text)) for text in pair] for _, pair, _ in replies]
    folder = tmp_path / "m" / "gpt4o" / "eval_results_new"
    folder.mkdir(parents=True)
    head = "source_image,edited_image,instruction,sementics_score,quality_score,intersection_exist,instruction_language"
    rows = []
    for kind in GEDIT_TYPES:
        lines = [head]
        for number, ((of, _, both), (semantics, quality)) in enumerate(zip(replies, theirs, strict=True)):
            if of == kind:
                lines.append(f"a,b,c,{semantics},{quality},{both},en")
                aspects = gedit.score({"semantics": semantics, "quality": quality}, {})[1]
                rows.append(Row(str(number), kind, aspects, {"in_intersection": both}))
        (folder / f"m_{kind}_gpt_score.csv").write_text("\n".join(lines))
    printed = run(scripts, "calculate_statistics.py", "--model_name", "m", "--save_path", tmp_path)
    ours = by_name([figure(measure) for measure in gedit.measures(rows)])
    names = ("semantics", "quality", "overall")
    for kind in GEDIT_TYPES:
        own = ", ".join(f"{ours[name, kind]:.3f}" for name in names)
        assert own == re.search(rf"^{kind}: (.*)$", printed, re.M)[1]  # type: ignore[index]
    average = re.search(r"^Average: (.*)$", printed, re.M)
    intersection = re.search(r"^Average Intersection: (.*)$", printed, re.M)
    assert average is not None
    assert intersection is not None
    assert average[1] == ", ".join(f"{ours[name, None]:.3f}" for name in names)
    assert intersection[1] == ", ".join(f"{ours[f'{name}, intersection', None]:.3f}" for name in names)


@pytest.mark.parametrize("free", [False, True])
def test_risebench(tmp_path: Path, free: bool) -> None:
    scripts = clone("PhoenixZ810/RISEBench", "gpt_eval.py", "pandas", "requests", "tqdm", "xlsxwriter")
    rng = random.Random(2)
    data: list[dict[str, Any]] = []
    replies: dict[str, dict[str, Any]] = {}
    rows = []
    for number in range(80):
        category = rng.choice(("temporal_reasoning", "causal_reasoning", "spatial_reasoning", "logical_reasoning"))
        logical = category == "logical_reasoning"
        entry: dict[str, Any] = {"index": f"{category}_{number}", "category": category, "subtask": "Puzzle Solving"}
        if free and number % 9 == 0 and not logical:
            entry["consistency_free"] = True
        parts = ["consistency", "reasoning"] + ([] if logical else ["plausibility"])
        numbers = {part: rng.choice((0, 1)) if logical else rng.choice((1, 2, 3, 4, 5, 5, 5)) for part in parts}
        words: dict[str, Any] = {part: f"So.\n**Final Score:** **{n}**" for part, n in numbers.items()}
        fields = ("judge1", "judge2", "judge3")
        replies[entry["index"]] = dict(zip(fields, (words[part] for part in parts), strict=False))
        if "consistency_free" in entry:
            replies[entry["index"]]["judge1"] = None
            del numbers["consistency"]
        data.append(entry)
        asked = {part: risebench._reader(part, 1 if logical else 5)(words[part])[part] for part in numbers}
        known = {**entry, "fields": ["index", "category", "subtask", *(["consistency_free"] if free else [])]}
        rows.append(Row(entry["index"], category, risebench.score(asked, known)[1], known))
    (tmp_path / "data.json").write_text(json.dumps(data))
    out = tmp_path / "m"
    out.mkdir()
    (out / "m.pkl").write_bytes(pickle.dumps(replies))
    run(tmp_path, scripts / "gpt_eval.py", "--data", tmp_path / "data.json", "--output", out)
    table = [line.replace('"', "").split(",") for line in (out / "m_judge.csv").read_text().splitlines()]
    theirs = {cells[0]: [float(cell) if cell else None for cell in cells[1:]] for cells in table[1:]}
    ours = by_name([figure(measure) for measure in risebench.measures(rows)])
    for name, kind in (("Overall", None), ("Temporal", "temporal_reasoning"), ("Logical", "logical_reasoning")):
        _, percent, accuracy = theirs[name]
        assert accuracy is not None
        assert ours["accuracy", kind] == pytest.approx(100 * accuracy, abs=1e-4)
        assert ours["score", kind] == pytest.approx(percent, abs=1e-4)
    for name, part in (
        ("Overall_Reasoning", "reasoning"),
        ("Overall_ApprConsistency", "consistency"),
        ("Overall_VisualPlausibility_total", "plausibility"),
    ):
        assert ours[part, None] == pytest.approx(theirs[name][1], abs=1e-4)
