"""`agentfly generate` and `python -m recipes.refinement_loop`: one JSON object, its files, and exit codes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from agentfly.cli import app, main
from agentfly.errors import AgentFlyError, ConfigError
from agentfly.systems.refinement import RefinementSettings, make_loop, settings
from tests import programs
from tests.unit.systems.refinement.openai_server import OpenAIServer, drawn, encoded, fault, judged, refused, written

ROOT = Path(__file__).resolve().parents[4]
DOCUMENTED = {"best_image_url", "final_score", "prompt_history", "image_history", "feedback_history", "thread_id"}


def run(openai: OpenAIServer, *flags: str) -> Result:
    """The command in this process."""
    bounded = ["--base-url", openai.url, "--retries", "0", "--max-iterations", "2"]
    return CliRunner().invoke(app, ["generate", "a ring", *bounded, *flags])


def process(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return programs.run("-m", *command, cwd=cwd, env={**known, **environment}, timeout=120)


@pytest.mark.slow
def test_the_documented_command(openai: OpenAIServer, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), "blue").save(tmp_path / "style.jpg")
    openai.files["/style.png"] = encoded("green")
    openai.say([drawn("red"), drawn("blue")], [judged(40, "Dull."), judged(92, "Fine.")], [written("a bright car")])
    flags = ["--refs", "style.jpg", openai.url.replace("/v1", "/style.png"), "--allow-private-hosts"]
    flags += ["--quality", "low", "--size", "1536x1024", "--background", "opaque", "--format", "png"]
    flags += ["--max-iterations", "4", "--score-threshold", "90", "--rubric", "jewelry", "--generator", "openai"]
    done = process(
        *["recipes.refinement_loop", "A car", *flags],
        cwd=tmp_path,
        OPENAI_API_KEY="sk-5",
        OPENAI_BASE_URL=openai.url,
        OPENAI_MODEL="gpt-y",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() >= DOCUMENTED | {"costs", "timings"}
    assert (found["final_score"], found["thread_id"], found["error"]) == (92, "conv_7", None)
    assert found["prompt_history"] == ["A car", "a bright car"]
    assert found["feedback_history"] == ["Dull.", "Fine."]
    assert found["best_image_url"] == found["image_history"][1]
    best = Path(found["best_image_url"])
    assert best.is_absolute()
    assert best.read_bytes() == encoded("blue")
    assert json.loads((best.parent / "result.json").read_text()) == found
    assert "iteration 1 of 4: score 40: Dull." in done.stderr
    tool = openai.bodies("image")[0]["tools"][0]
    assert (tool["quality"], tool["size"], tool["background"]) == ("low", "1536x1024", "opaque")
    assert openai.bodies("image")[0]["model"] == "gpt-y"
    images = [part for part in openai.bodies("image")[0]["input"][0]["content"] if part["type"] == "input_image"]
    assert len(images) == 2
    assert set(openai.keys) == {"Bearer sk-5"}


def test_agentfly_generate_without_a_key_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = process("agentfly.cli", "generate", "a ring", cwd=tmp_path)
    assert done.returncode == 1
    assert "no API key: set OPENAI_API_KEY" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("role", ["judge", "prompter"])
def test_a_key_that_is_missing_is_told_before_an_image_is_made(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    others = {"judge": {"prompter": "feedback"}, "prompter": {"evaluator": "structural", "prompter": "chat"}}
    settings = RefinementSettings(generator="classical", **others[role])
    with pytest.raises(ConfigError, match="no API key: set OPENAI_API_KEY"):
        make_loop(settings)


def test_no_image_is_exit_code_1_with_the_reason(openai: OpenAIServer, tmp_path: Path) -> None:
    openai.say([refused("I cannot draw that.")])
    done = run(openai, "--output-dir", str(tmp_path))
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["best_image_url"] is None
    assert found["image_history"] == [None, None]
    assert found["feedback_history"] == ["the model refused: I cannot draw that."] * 2
    assert "error: the model refused: I cannot draw that." in done.stderr


def test_a_failed_iteration_is_in_the_histories_and_the_image_still_comes(openai: OpenAIServer, tmp_path: Path) -> None:
    openai.say([fault(400, "blocked", "moderation_blocked"), drawn("red")], [judged(70)])
    done = run(openai, "--output-dir", str(tmp_path))
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["image_history"] == [None, str(tmp_path / "iteration_2.png")]
    assert "moderation_blocked" in found["feedback_history"][0]
    assert found["score_history"] == [None, 70]
    assert (found["stopped"], found["costs"]["generator"]["requests"]) == ("max_iterations", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration_2.png", "result.json"]


@pytest.mark.parametrize(("kind", "suffix"), [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp")])
def test_formats(openai: OpenAIServer, tmp_path: Path, kind: str, suffix: str) -> None:
    # What arrives in another format than the wanted one is encoded again.
    openai.say([drawn((255, 0, 0, 128))], [judged(99)])
    done = run(openai, "--output-dir", str(tmp_path), "--format", kind)
    path = Path(json.loads(done.stdout)["best_image_url"])
    assert path.suffix == suffix
    with Image.open(path) as image:
        assert (image.format, image.mode == "RGBA") == (kind.upper(), kind != "jpeg")


@pytest.mark.parametrize(
    "flags", [["--quality", "best"], ["--size", "10x10"], ["--format", "gif"], ["--max-iterations", "many"]]
)
def test_flags_that_cannot_be_are_exit_code_2(openai: OpenAIServer, flags: list[str]) -> None:
    done = run(openai, *flags)
    assert (done.exit_code, done.stdout, openai.asked) == (2, "", [])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--refs", "no/such.png"], "no image file"),
        (["--refs", "http://127.0.0.1:1/x.png"], "not a public address"),
        (["--rubric", "jewellery"], "jewelry"),
        (["--format", "jpeg", "--background", "transparent"], "JPEG has no transparency"),
        (["--generator", "server"], "server_url"),
        (["--upload", "s3://bucket/x/"], "[s3]"),
        (["--upload", "nowhere://x"], "knows no place"),
        (["--upload", "bucket"], "s3://bucket"),
        (["--upload", "file:///x/", "--public-url", "shop"], "write https://HOST/FOLDER/"),
        (["--public-url", "https://shop.example/"], "give --upload too"),
        (["--evaluator", "{nonsense"], "no JSON object"),
        (["--evaluator", "juge"], "judge"),
        (["--config", "no/such.yaml"], "cannot read the file of --config"),
        (["--env", "no/such.env"], "no settings file"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_made(openai: OpenAIServer, flags: list[str], words: str) -> None:
    done = run(openai, *flags)
    assert isinstance(done.exception, AgentFlyError)
    assert words in str(done.exception)
    assert (done.stdout, openai.asked) == ("", [])


def test_choices_of_the_options_are_those_of_the_settings() -> None:
    options = importlib.import_module("agentfly.cli.generate")
    for name in ("GeneratorName", "PrompterName", "Quality", "Size", "Background", "Format"):
        assert get_args(getattr(options, name)) == get_args(getattr(settings, name))


def test_an_empty_prompt_is_refused(openai: OpenAIServer) -> None:
    refused = CliRunner().invoke(app, ["generate", " ", "--base-url", openai.url])
    assert isinstance(refused.exception, ConfigError)
    assert "the prompt is empty" in str(refused.exception)
    assert openai.asked == []


def test_our_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["agentfly", "generate", "a ring", "--refs", "no/such.png"])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr()
    assert (stopped.value.code, said.out) == (1, "")
    assert "no image file" in " ".join(said.err.split())


@pytest.mark.parametrize(
    ("place", "file"),
    [
        ("shop/ring/", "shop/ring/out-iteration_2.png"),
        ("shop/v1.2", "shop/v1.2/out-iteration_2.png"),
        ("shop/best.png", "shop/best.png"),
    ],
)
def test_the_best_image_is_uploaded(openai: OpenAIServer, tmp_path: Path, place: str, file: str) -> None:
    openai.say([drawn("red"), drawn("blue")], [judged(40), judged(60)])
    done = run(openai, "--output-dir", str(tmp_path / "out"), "--upload", f"file://{tmp_path}/{place}")
    found = json.loads(done.stdout)
    assert found["best_image_url"] == f"file://{tmp_path}/{file}"
    assert (tmp_path / file).read_bytes() == encoded("blue")
    assert found["image_history"][1] == str(tmp_path / "out/iteration_2.png")


def test_an_upload_that_fails_leaves_the_image_and_is_exit_code_1(openai: OpenAIServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run(openai, "--output-dir", str(tmp_path / "out"), "--upload", f"file://{tmp_path}/file/x/")
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert Path(found["best_image_url"]).is_file()
    assert "cannot upload" in found["upload_error"]
    assert "cannot upload" in done.stderr


def test_the_public_address_of_an_upload_is_read_before_it_is_told(openai: OpenAIServer, tmp_path: Path) -> None:
    openai.say([drawn("red")], [judged(95)])
    web = openai.url.replace("/v1", "/shop/best.png")
    place = ["--upload", f"file://{tmp_path}/shop/best.png", "--public-url", web, "--allow-private-hosts"]
    done = run(openai, "--output-dir", str(tmp_path / "out"), *place)
    assert done.exit_code == 1
    assert f"the image is at file://{tmp_path}/shop/best.png, but cannot be read at {web}" in done.stderr
    openai.files["/shop/best.png"] = encoded("blue")
    assert "shows something else: correct --public-url" in run(openai, *place, "--output-dir", "out").stderr
    openai.files["/shop/best.png"] = encoded("red")
    found = json.loads(run(openai, "--output-dir", str(tmp_path / "out"), *place).stdout)
    assert (found["best_image_url"], found["uploaded_to"]) == (web, f"file://{tmp_path}/shop/best.png")
    assert json.loads((tmp_path / "out/result.json").read_text(encoding="utf-8")) == found


def test_the_place_of_an_upload_may_be_in_the_environment(
    openai: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPLOAD_URL", f"file://{tmp_path}/shop/")
    openai.say([drawn("red")], [judged(95)])
    found = json.loads(run(openai, "--output-dir", str(tmp_path / "out")).stdout)
    assert found["best_image_url"] == found["uploaded_to"] == f"file://{tmp_path}/shop/out-iteration_1.png"


def test_a_person_decides_and_the_prompter_hears_of_it(openai: OpenAIServer, tmp_path: Path) -> None:
    openai.say([drawn("red"), drawn("blue")], [judged(95, "Fine."), judged(20, "Dull.")], [written("warmer light")])
    command = ["generate", "a ring", "--base-url", openai.url, "--max-iterations", "2", "--ask"]
    # A score that is none is asked for again; for the second image Enter keeps what the judge said.
    answers = "very good\n30\nwarmer, please\n\n\n"
    done = CliRunner().invoke(app, [*command, "--output-dir", str(tmp_path)], input=answers)
    found = json.loads(done.stdout)
    assert found["score_history"] == [30, 20], "95 would have ended the run"
    assert found["feedback_history"] == ["Fine. A person says: warmer, please", "Dull."]
    assert found["iterations"][0]["aspects"]["judge"] == 0.95
    assert "warmer, please" in openai.bodies("prompt")[0]["input"][0]["content"]
    shown = " ".join(done.stderr.split())
    assert f"iteration 1 of 2, {tmp_path}/iteration_1.png judged 95 of 100: Fine." in shown
    assert "a score is a number from 0 to 100" in shown


def test_nobody_who_answers_leaves_the_judges_score(openai: OpenAIServer, tmp_path: Path) -> None:
    openai.say([drawn("red")], [judged(95, "Fine.")])
    command = ["generate", "a ring", "--base-url", openai.url, "--ask", "--output-dir", str(tmp_path)]
    found = json.loads(CliRunner().invoke(app, command, input="").stdout)
    assert (found["score_history"], found["feedback_history"]) == ([95], ["Fine."])


@pytest.mark.slow
def test_an_interrupted_run_leaves_its_images(
    openai: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def interrupt(self: Fixed, sample: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Fixed, "evaluate", interrupt)
    judge = json.dumps({"evaluator": "tests.unit.systems.refinement.test_command:Fixed", "value": 1})
    flags = ["a red star", "--generator", "classical", "--evaluator", judge, "--output-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        main(["generate", *flags])
    assert stopped.value.code == 130
    said = capsys.readouterr()
    assert (said.out, "interrupted: " in said.err) == ("", True)
    record = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert (record["stopped"], record["best_image_url"]) == ("running", str(tmp_path / "iteration_1.png"))
    assert record["prompt_history"] == ["a red star"]


def test_settings_come_from_flags_then_file_then_environment(
    openai: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, env = tmp_path / "loop.yaml", tmp_path / "loop.env"
    config.write_text("quality: low\nsize: auto\ninput_price: 1.0\noutput_price: 2.0\nmax_iterations: 1\n")
    env.write_text("OPENAI_MODEL=from-env\nSCORE_THRESHOLD=10\nKEY_OF_MINE=sk-mine\n")
    monkeypatch.delenv("KEY_OF_MINE", raising=False)
    monkeypatch.setenv("MAX_ITERATIONS", "9")
    flags = ["--config", str(config), "--env", str(env), "--size", "1024x1536", "--output-dir", str(tmp_path / "out")]
    done = run(openai, *flags)
    (body,) = openai.bodies("image")
    tool = body["tools"][0]
    assert (body["model"], tool["quality"], tool["size"]) == ("from-env", "low", "1024x1536")
    assert json.loads(done.stdout)["stopped"] == "threshold"
    assert json.loads(done.stdout)["costs"]["generator"]["cost"] == pytest.approx(0.00014)
    config.write_text("api_key_env: KEY_OF_MINE\n")
    openai.keys.clear()
    run(openai, "--config", str(config), "--env", str(env), "--output-dir", str(tmp_path / "out"))
    assert set(openai.keys) == {"Bearer sk-mine"}
    monkeypatch.delenv("KEY_OF_MINE", raising=False)


def test_any_evaluator_will_do(openai: OpenAIServer, tmp_path: Path) -> None:
    Image.new("RGB", (32, 24), "red").save(tmp_path / "in.png")
    spec: dict[str, Any] = {"evaluator": "tests.unit.systems.refinement.test_command:Fixed", "value": 97}
    flags = ["--evaluator", json.dumps(spec), "--output-dir", str(tmp_path / "out")]
    found = json.loads(run(openai, *flags).stdout)
    assert (found["final_score"], found["stopped"], found["thread_id"]) == (97, "threshold", None)
    assert openai.bodies("judge") == []


class Fixed:
    """An evaluator of one's own."""

    def __init__(self, value: float) -> None:
        self.value = value

    async def evaluate(self, sample: Any) -> Any:
        from agentfly.evaluators import Score

        return Score(self.value, "fixed")


def test_a_library_that_prints_does_not_spoil_the_object(
    openai: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def noisy(self: Fixed, sample: Any) -> Any:
        print("loading shards 1/1")
        from agentfly.evaluators import Score

        return Score(99)

    monkeypatch.setattr(Fixed, "evaluate", noisy)
    spec = json.dumps({"evaluator": "tests.unit.systems.refinement.test_command:Fixed", "value": 1})
    done = run(openai, "--evaluator", spec, "--output-dir", str(tmp_path))
    assert json.loads(done.stdout)["final_score"] == 99
    assert "loading shards" in done.stderr
