"""The documents are true: their Python runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import programs

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?P<before>[^\n]*)\n```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)
# Commands that the documents may show, and where each is run.
RUN_ELSEWHERE = {
    "python -m recipes.text_systems": "tests/unit/systems/test_text/test_recipes.py",
    "agentfly generate": "tests/unit/systems/refinement/test_command.py",
    "python -m recipes.refinement_loop": "tests/unit/systems/refinement/test_command.py",
    "python -m agentfly.agents.specialized.image_agent": "tests/unit/serving/image_server/test_command.py",
    "python -m recipes.director_generator.sdxl_server": "tests/unit/systems/director_generator/test_sdxl_server.py",
    "python -m recipes.director_generator": "tests/unit/systems/director_generator/test_command.py",
    "recipes/director_generator/parallel.sh": "tests/unit/systems/director_generator/test_command.py",
    "curl http://127.0.0.1:7000/docs": "tests/unit/systems/director_generator/test_documents.py",
    "export PYTHONPATH=": "tests/unit/systems/director_generator/test_documents.py",
    "python -m src.main": "tests/unit/systems/director_generator/test_documents.py",
    "agentfly mcp": "tests/unit/serving/mcp/test_command.py",
    "export TOOLS_KEY=": "tests/unit/serving/mcp/test_command.py",
    "agentfly serve-images --ray": "tests/integration/serving/test_image_replicas.py",
    "agentfly serve-images": "tests/unit/serving/image_server/test_command.py",
    "python -m agentfly.vision.remote.load_test": "tests/unit/vision/remote/test_load_test.py",
    "python benchmarks/image_server_peers.py": "tests/unit/benchmarks/test_image_server_peers_benchmark.py",
    "python benchmarks/cluster.py": "tests/unit/benchmarks/test_cluster_benchmark.py",
    "python benchmarks/growth.py": "tests/unit/benchmarks/test_growth_benchmark.py",
    "python benchmarks/soak.py": "tests/unit/benchmarks/test_soak_benchmark.py",
    "python benchmarks/peers.py": "tests/unit/benchmarks/test_peers_benchmark.py",
    "python benchmarks/image_server.py": "tests/unit/benchmarks/test_image_server_benchmark.py",
    "agentfly serve-evaluator": "tests/unit/serving/test_evaluator_environment.py",
    "agentfly calibrate": "tests/unit/evaluation/calibration/test_run.py",
    "python benchmarks/calibration.py": "tests/unit/benchmarks/test_calibration_benchmark.py",
    "agentfly serve-openenv": "tests/unit/environments/test_openenv.py",
    "vf-eval agentfly-editing": "tests/unit/environments/test_verifiers.py",
    "agentfly train": "tests/e2e/test_recipes.py",
    "agentfly new": "tests/e2e/test_new_project.py",
    "cd my_project": "tests/e2e/test_new_project.py",
    "agentfly try": "tests/unit/training/trial/test_page.py",
    "agentfly export runs/tried": "tests/unit/training/trial/test_page.py",
    "agentfly export runs/quickstart --to-hub": "tests/unit/evaluation/hub/test_export.py",
    "hf upload": "tests/unit/evaluation/hub/test_export.py",
    "agentfly view --try": "tests/unit/viewer/pages/test_try.py",
    "agentfly view": "tests/unit/cli/test_view.py",
    "make quickstart": "tests/e2e/test_quickstart.py",
    "make test": ".ci/run",
    "make install": ".ci/run",
    "make docs": ".ci/run",
    "make check": "tests/unit/test_checks.py",
    ". .venv/bin/activate": "tests/unit/scripts/test_install.py",
    "pre-commit install": "tests/unit/test_checks.py",
    "pytest -n0 -q tests/unit/": "tests/unit/test_checks.py",
    "pytest": "tests/e2e/test_new_project.py",
    "python scripts/fuzz.py": "tests/unit/scripts/test_fuzz.py",
    "python scripts/measure.py": "tests/unit/scripts/test_measure.py",
    "pip install -e .": "tests/unit/test_package.py",
    "agentfly data pairs": "tests/unit/training/supervised/test_pairs.py",
    "agentfly data": "tests/unit/datasets/test_command.py",
    "python data/build_": "tests/unit/datasets/test_sample.py",
    "agentfly edit": "tests/unit/agents/test_edit.py",
    "export OPENAI_API_KEY=": "tests/e2e/test_walks_edit.py",
    "export IMAGE_KEY=": "tests/e2e/test_walks_edit.py",
    "agentfly eval": "tests/unit/evaluation/test_commands.py",
    "agentfly compare": "tests/unit/evaluation/test_commands.py",
    "agentfly replay": "tests/unit/evaluation/test_commands.py",
    "agentfly sft": "tests/unit/training/supervised/test_chain.py",
    "agentfly export": "tests/unit/training/supervised/test_chain.py",
    "agentfly doctor": "tests/unit/doctor/test_report.py",
    "python -m agentfly.utils.deploy": "tests/integration/agents/test_client_on_vllm_serve.py",
    "python benchmarks/rollout.py": "tests/unit/benchmarks/test_rollout_benchmark.py",
    "python benchmarks/learning.py": "tests/unit/benchmarks/test_learning_benchmark.py",
    "python benchmarks/async_training.py": "tests/unit/benchmarks/test_async_training_benchmark.py",
    "python benchmarks/judges.py": "tests/unit/benchmarks/test_judges_benchmark.py",
    "python benchmarks/sampling.py": "tests/unit/benchmarks/test_sampling_benchmark.py",
    "python benchmarks/training.py": "tests/unit/benchmarks/test_training_benchmark.py",
    "python benchmarks/gpu.py": "tests/unit/benchmarks/test_gpu_benchmark.py",
    "python benchmarks/loops_alone.py": "tests/unit/benchmarks/test_training_benchmark.py",
    "python benchmarks/recording.py": "tests/unit/benchmarks/test_recording_benchmark.py",
}


def blocks(language: str) -> list[tuple[str, str, str]]:
    found = []
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
            if match["language"] == language:
                found.append((page.name, match["before"], match["code"]))
    return found


@pytest.mark.parametrize(("page", "before", "code"), blocks("python"))
def test_python_runs(page: str, before: str, code: str, tmp_path: Path) -> None:
    if before.startswith("<!-- needs"):
        compile(code, page, "exec")
        return
    done = programs.run("-c", code, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "before", "code"), blocks("bash"))
def test_commands_are_run_somewhere(page: str, before: str, code: str) -> None:
    for line in filter(None, code.splitlines()):
        words = re.sub(r"""^(?:[A-Z_]+=(?:"[^"]*"|\S+) )+""", "", line)
        known = next((where for command, where in RUN_ELSEWHERE.items() if words.startswith(command)), None)
        assert known is not None, f"{page}: nothing runs {line!r}"
        assert (ROOT / known).exists()


ANNOUNCED = "agentfly/tests/unit/agents/test_image_agent"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        (f"{ANNOUNCED}/test_image_tools.py",),
        (f"{ANNOUNCED}/test_image_agent.py",),
        (f"{ANNOUNCED}/test_image_agent_backends.py::test_image_agent_client",),
        # An engine takes long to start; its test runs under its own path.
        (f"{ANNOUNCED}/test_image_agent_backends.py::test_image_agent_async_vllm", "--collect-only"),
    ],
)
def test_announced_paths_of_tests_work_from_the_root_of_a_clone(arguments: tuple[str, ...]) -> None:
    pytest_script = Path(sys.executable).with_name("pytest")
    done = subprocess.run([pytest_script, *arguments, "-s"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b(passed|1 test collected)\b", done.stdout)


def test_announced_module_of_the_test_run_works(tmp_path: Path) -> None:
    module = ANNOUNCED.replace("/", ".") + ".test_run"
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); runpy.run_module({module!r}, run_name='__main__')"
    done = programs.run("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "give_answer" in done.stdout
    assert (tmp_path / "outputs" / "test_run" / "edited.png").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
