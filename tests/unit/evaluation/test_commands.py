"""`agentfly eval`, `compare` and `replay` as people type them: real data, real loopback servers, a real process."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from agentfly.cli import app, main
from agentfly.datasets.photos import load_photo
from agentfly.evaluation.task_agent import NamedTaskAgent
from agentfly.images import ImageStore
from agentfly.vision import make_engines
from tests.unit.agents.conftest import ChatServer, Reply, completion, failure, running_server, server
from tests.unit.evaluation.agents import blurs, call, editing
from tests.unit.evaluation.test_replay import Shifted
from tests.unit.evaluators.scripted_judge import Reply as JudgeReply
from tests.unit.evaluators.scripted_judge import judge, said
from tests.unit.vision.remote.fake_node import FakeNode

pytestmark = pytest.mark.slow

__all__ = ["running_server", "server"]  # fixtures

AGENT = "tests.unit.evaluation.agents:editing"
STICKERS = ["--data", "stickers", "--split", "heldout"]


def shifted(store: ImageStore) -> Any:
    """`editing`, on an editor that is not quite the classical one."""
    agent: NamedTaskAgent = editing(store)
    engines = make_engines()
    agent._agent.engines = type(engines)(engines.detector, engines.inpainter, Shifted(engines))
    return agent


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    result = command(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command says when it fails."""
    monkeypatch.setattr("sys.argv", ["agentfly", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    return " ".join(capsys.readouterr().err.split())


def test_the_sticker_set_gives_a_table_a_gallery_and_trajectories(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [
        "eval",
        *STICKERS,
        "--agent",
        AGENT,
        "-o",
        out,
        "--evaluator",
        "reference",
        "--evaluator",
        "structural",
    ]
    printed = done(*arguments, "--limit", 10)
    found = summary(out)
    assert set(found["by_type"]) == {"named", "replace", "look", "two_step", "repair"}
    assert found["evaluators"] == ["reference", "structural"]
    assert found["all"]["scores"]["reference"]["scored"] == 10
    assert found["all"]["tools"] == {"qwen_edit_image": 10, "give_answer": 10}
    assert found["all"]["stop_reasons"] == {"answered": 10}
    assert "| **all** | 10 | 0 |" in printed
    assert (out / "summary.md").read_text() in printed
    assert (out / "gallery.html").read_text().count("<article") == 10
    for line in (out / "trajectories.jsonl").read_text().splitlines():
        record = json.loads(line)
        for handle in (*record["task"]["images"], record["task"]["target"], record["trajectory"]["final_image"]):
            assert (out / "images" / f"{handle}.png").is_file()
    # The limit may grow: only what is new is run.
    done(*arguments, "--limit", 12)
    assert len((out / "trajectories.jsonl").read_text().splitlines()) == 12


def test_a_model_behind_an_endpoint_is_evaluated_from_a_file(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies: list[Reply] = [blurs] * 8
    server.say(*replies)
    monkeypatch.setenv("MY_KEY", "sk-mine")
    file = tmp_path / "eval.yaml"
    file.write_text(
        f"data: stickers\nsplit: heldout\nmodel: m\nbase_url: {server.url}\napi_key_env: MY_KEY\nmax_tokens: 77\n"
        "engine: classical\nevaluator: structural\nbackend_config: {max_retries: 0}\n"
    )
    done("eval", "--config", file, "--limit", 4, "--out", tmp_path / "run")
    figures = summary(tmp_path / "run")["all"]
    assert figures["tokens"] == {"prompt": 8 * 7, "completion": 8 * 3}
    assert figures["turns"] == 2.0
    assert set(server.keys) == {"Bearer sk-mine"}
    assert {body["max_completion_tokens"] for body in server.bodies} == {77}
    assert "sk-mine" not in (tmp_path / "run" / "settings.json").read_text()


def test_a_wrong_option_leaves_no_folder_and_a_wrong_address_binds_none(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    out, words = tmp_path / "runs" / "one", ["eval", *STICKERS, "--limit", 1, "--evaluator", "structural"]
    for wrong in (["--agent", "nope"], ["--agent", AGENT, "--data", "nope"], ["--agent", AGENT, "--split", "nope"]):
        assert command(*words, "--out", out, *wrong).exit_code
        assert list(tmp_path.iterdir()) == []
    endpoint = ["--model", "m", "--out", out, "--backend-config", '{"max_retries": 0}', "--base-url"]
    assert command(*words, *endpoint, "http://127.0.0.1:9/v1").exit_code
    server.say(blurs, blurs)
    done(*words, *endpoint, server.url)
    assert summary(out)["all"]["failed"] == 0


def cell(image: Image.Image) -> dict[str, Any]:
    out = io.BytesIO()
    image.save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


def gedit(folder: Path) -> Path:
    """A file with the columns of GEdit-Bench, three tasks of two types."""
    photo = cell(load_photo("coffee.png").resize((96, 64)))
    rows = [
        {
            "task_type": task_type,
            "key": key,
            "instruction": f"Edit {key}.",
            "instruction_language": "en",
            "input_image": photo,
            "input_image_raw": photo,
            "Intersection_exist": True,
        }
        for key, task_type in (("a", "subject-remove"), ("b", "subject-remove"), ("c", "color_alter"))
    ]
    (folder / "data").mkdir(parents=True)
    table = datasets.Dataset.from_list(rows)
    for column in ("input_image", "input_image_raw"):
        table = table.cast_column(column, datasets.Image())
    table.to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    return folder


def opinion(request: dict[str, Any], number: int) -> JudgeReply:
    """A judge that refuses to look at task b, and likes the others."""
    if "Edit b." in json.dumps(request):
        return JudgeReply("I cannot judge this image.")
    return said(**dict.fromkeys(fields(request), 9))


def fields(request: dict[str, Any]) -> list[str]:
    schema = request["response_format"]["json_schema"]["schema"]
    return [name for name in schema["properties"] if name != "feedback"]


def test_a_gedit_file_with_a_judge_that_refuses_now_and_then(tmp_path: Path) -> None:
    root = gedit(tmp_path / "gedit")
    with judge(opinion) as vlm:
        spec = f"judge:m,base_url={vlm.base_url},attempts=2,input_price=1.0,output_price=10.0,scheme=simple"
        done(
            *("eval", "--data", "gedit-bench", "--root", root, "--agent", AGENT, "--out", tmp_path / "run"),
            *("--evaluator", spec, "--evaluator", "reference"),
        )
        found = summary(tmp_path / "run")
        asked = len(vlm.requests)
        again = done("replay", tmp_path / "run", "--evaluator", spec, "--out", tmp_path / "again")
    figures = found["all"]
    assert figures["scores"]["judge"]["scored"] == 2
    assert figures["scores"]["judge"]["score"]["mean"] > 0
    assert "gave no ratings in 2 attempts" in next(iter(figures["scores"]["judge"]["reasons"]))
    # GEdit has no targets: the reference evaluator says so, and gives no 0.
    assert figures["scores"]["reference"] == {**figures["scores"]["reference"], "score": None, "not_scored": 3}
    assert figures["judge"]["judge"]["requests"] == asked == 4
    assert figures["judge"]["judge"]["cost"] == pytest.approx(asked * (1000 * 1.0 + 100 * 10.0) / 1e6)
    page = (tmp_path / "run" / "summary.md").read_text()
    assert "gave no ratings" in page
    assert "not scored" in (tmp_path / "run" / "gallery.html").read_text()
    assert summary(tmp_path / "again")["all"]["scores"]["judge"] == figures["scores"]["judge"]
    assert "| judge |" in again


def test_two_runs_are_compared(tmp_path: Path) -> None:
    for name, prompt in (("a", "darken"), ("b", "blur")):
        options = json.dumps({"prompt": prompt})
        run = ["eval", *STICKERS, "--limit", 6, "--agent", AGENT, "--agent-options", options, "-o", tmp_path / name]
        done(*run, "--evaluator", "reference", "--gallery", 0)
    printed = done("compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    everything = found["evaluators"]["reference"]["all"]
    assert everything["tasks"] == everything["win"] + everything["tie"] + everything["loss"] == 6
    assert 0 < everything["p"] <= 1
    assert (tmp_path / "out" / "comparison.md").read_text() in printed
    assert not (tmp_path / "a" / "gallery.html").exists()


def test_calls_are_carried_out_again_and_the_exit_code_says_whether_images_differ(tmp_path: Path) -> None:
    for name, agent in (("same", AGENT), ("other", f"{__name__}:shifted")):
        done("eval", *STICKERS, "--limit", 3, "--agent", agent, "-o", tmp_path / name)
    assert "No image differs." in done("replay", tmp_path / "same", "--re-execute", "--engine", "classical")
    result = command("replay", tmp_path / "other", "--re-execute")
    assert result.exit_code == 1
    report = json.loads((tmp_path / "other" / "replay" / "reexecution.json").read_text())
    assert report["totals"]["chains_that_differ"] == 3
    first = report["chains"][0]["differences"][0]
    assert (first["turn"], first["tool"], first["image"], first["max"]) == (1, "qwen_edit_image", "img_2", 1)
    assert 0.3 < first["share"] <= 0.5
    assert "| 1 | 1 | qwen_edit_image | img_2 | pixels differ |" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", "--data", "stickers"], "--out is missing"),
        (["eval", "--data", "stickrs", "--out", "o", "--agent", AGENT], "Did you mean 'stickers'"),
        (
            ["eval", *STICKERS, "--out", "o", "--agent", AGENT, "--agent-options", "[1]"],
            "--agent-options is a JSON object",
        ),
        (["eval", *STICKERS, "--out", "o"], "make quickstart"),
        (["compare", "o", "p"], "there is no run in 'o'"),
        (["replay", "o", "--re-execute"], "there are no trajectories at 'o'"),
        (["replay", "o"], "nothing to do"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in one_line(monkeypatch, capsys, *arguments)


def test_an_endpoint_that_nobody_answers_at_ends_a_run_before_its_first_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in ("http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1"):  # the first start binds the second to nothing
        nobody = ["--model", "m", "--base-url", url]
        said = one_line(monkeypatch, capsys, "eval", *STICKERS, "--limit", "200", *nobody, "--out", tmp_path / "run")
        assert f"cannot reach {url}" in said


def test_a_run_whose_every_task_failed_says_why(
    tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say(*[failure(400, "no such model")] * 2)
    wrong = ["--model", "m", "--base-url", server.url]
    said = one_line(monkeypatch, capsys, "eval", *STICKERS, "--limit", "2", *wrong, "--out", tmp_path / "run")
    assert "all 2 tasks failed" in said
    assert "no such model" in said
    assert "--retry-failed" in said
    assert summary(tmp_path / "run")["all"]["scores"]["reference"]["score"] is None


def words_only(folder: Path) -> Path:
    """Two tasks of one's own that are images and instructions, and nothing else."""
    for name in ("a", "b"):
        load_photo("coffee.png").resize((96, 64)).save(folder / f"{name}.png")
    lines = [json.dumps({"instruction": f"Edit {name}.", "image": f"{name}.png"}) for name in ("a", "b")]
    (folder / "mine.jsonl").write_text("\n".join(lines))
    return folder / "mine.jsonl"


@pytest.mark.parametrize(
    ("evaluator", "words"),
    [
        ("reference", "--evaluator reference: none of the first 2 tasks can be scored: the reference evaluator needs"),
        (
            "judge:m,base_url=http://127.0.0.1:9/v1",
            "--evaluator judge: the judge m at http://127.0.0.1:9/v1 did not answer",
        ),
    ],
)
def test_who_cannot_score_is_told_before_the_agent_is_asked(
    evaluator: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "asked.log"
    run = ["eval", "--data", words_only(tmp_path), "--agent", AGENT, "--out", tmp_path / "run"]
    run += ["--agent-options", json.dumps({"log": str(log)})]
    assert words in one_line(monkeypatch, capsys, *run, "--evaluator", evaluator)
    assert not log.exists()


def test_a_finished_run_is_shown_again_without_its_judge(tmp_path: Path) -> None:
    with judge(opinion) as vlm:
        run = ["eval", "--data", words_only(tmp_path), "--agent", AGENT, "--out", tmp_path / "run"]
        run += ["--evaluator", f"judge:m,base_url={vlm.base_url},scheme=simple"]
        first = done(*run, "--limit", 1)
    assert done(*run, "--limit", 1).splitlines()[:2] == first.splitlines()[:2]


def test_a_table_without_a_score_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["eval", "--data", words_only(tmp_path), "--agent", AGENT, "--out", tmp_path / "run"]
    with judge(JudgeReply("no")) as vlm:
        spec = f"judge:m,base_url={vlm.base_url},scheme=simple,attempts=1"
        said = one_line(monkeypatch, capsys, *run, "--evaluator", spec)
        assert "judge scored none of 2 tasks: the judge m gave no ratings in 1 attempts" in said
        assert summary(tmp_path / "run")["all"]["scores"]["judge"]["not_scored"] == 2
        again = ["replay", tmp_path / "run", "--evaluator", spec]
        assert "judge scored none of 2 tasks" in one_line(monkeypatch, capsys, *again)


def test_nothing_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "asked.log"
    options = json.dumps({"log": str(log)})
    arguments = ["eval", *STICKERS, "--limit", "12", "--agent", AGENT, "--agent-options", options, "-o", str(out)]
    arguments += ["--evaluator", "structural", "--concurrency", "2"]
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(
        [sys.executable, "-m", "agentfly.cli", *arguments], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    lines = out / "trajectories.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not lines.exists() or lines.read_bytes().count(b"\n") < 3):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    kept = lines.read_bytes()
    finished = {json.loads(line)["task"]["id"] for line in kept.splitlines(keepends=True) if line.endswith(b"\n")}
    assert 3 <= len(finished) < 12
    asked_before = log.read_text().split()
    with lines.open("ab") as file:
        file.write(b'{"task": {"id": "half a li')

    done(*arguments)
    asked_after = log.read_text().split()[len(asked_before) :]
    assert not finished & set(asked_after)
    ids = Counter(json.loads(line)["task"]["id"] for line in lines.read_text().splitlines())
    assert len(ids) == 12
    assert set(ids.values()) == {1}
    assert lines.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert summary(out)["all"]["tasks"] == 12


def test_servers_of_the_command_line_do_the_work_with_their_key(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_KEY", "geheim")
    server.say(completion(call("qwen_edit_image", image_id="img_1", prompt="x")))
    model = ["--model", "m", "--base-url", server.url, "--limit", 1, "--max-turns", 1]
    with FakeNode().up() as node:
        nodes = ["--nodes", node.url, "127.0.0.1:1", "--nodes-key-env", "NODE_KEY"]
        done("eval", *STICKERS, *model, *nodes, "-o", tmp_path / "run")
    assert node.keys == ["Bearer geheim"]
    kept = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert kept["client_nodes"] == [
        {"base_url": node.url, "api_key_env": "NODE_KEY"},
        {"base_url": "http://127.0.0.1:1", "api_key_env": "NODE_KEY"},
    ]


@pytest.mark.parametrize("way", ["option", "file", "agent_options"])
def test_a_run_whose_servers_are_all_away_ends_before_the_model_is_asked(
    way: str,
    server: ChatServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "eval.yaml").write_text("client_nodes: [127.0.0.1:1]\n")
    named: dict[str, list[object]] = {
        "option": ["--nodes", "127.0.0.1:1"],
        "file": ["--config", tmp_path / "eval.yaml"],
        "agent_options": ["--agent-options", '{"client_nodes": [["127.0.0.1", 1]]}'],
    }
    model = ["--model", "m", "--base-url", server.url, "-o", tmp_path / "run"]
    said = one_line(monkeypatch, capsys, "eval", *STICKERS, *model, *named[way])
    assert "no image server can be used (http://127.0.0.1:1: cannot connect" in said
    assert "leave --nodes and client_nodes out" in said
    assert server.bodies == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--base-url", "http://127.0.0.1:1/v1"], "--model is missing: name the model that http://127.0.0.1:1/v1"),
        (["--base-url", "https://api.openai.com/v1", "--model", "m"], "without a key: export OPENAI_API_KEY"),
        (["--base-url", "http://h/v1", "--model", "m", "--engine", "openai"], "no API key: set OPENAI_API_KEY"),
        (["--agent", "director-generator", "--engine", "openai"], "no API key: set OPENAI_API_KEY"),
        (["--nodes", "nowhere"], "--nodes: 'nowhere' has no port"),
        (["--agent", "refinement-loop", "--nodes", "a:1"], "unknown setting '--client-nodes'"),
        (["--agent", "director-generator", "--nodes", "a:1"], "has no setting client_nodes (--nodes): leave it out"),
    ],
)
def test_what_is_missing_is_named_before_any_request(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert words in one_line(monkeypatch, capsys, "eval", *STICKERS, "-o", tmp_path / "run", *arguments)


def test_engines_come_from_a_file_too(tmp_path: Path, server: ChatServer) -> None:
    (tmp_path / "engines.yaml").write_text("editor: classical\n")
    model = ["--model", "m", "--base-url", server.url, "--limit", 1]
    done("eval", *STICKERS, *model, "--engine", tmp_path / "engines.yaml", "-o", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["engine"] == {"editor": "classical"}
