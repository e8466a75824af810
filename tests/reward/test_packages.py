"""Packages and further files of reward code: declared, installed once, importable in the sandbox, and never trusted."""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest
from support.reward_server import install_packages, write_function
from support.wheels import build_source_distribution, build_wheel

from rft_api.exit_codes import ExitCode
from rft_api.manifests import ManifestErrors, load_manifests
from rft_api.requirements import missing_modules, requirements_digest
from rft_api.reward_function import PythonReward
from rft_reward.packages import BUNDLED_PACKAGES, installed_versions, satisfies

PLAIN = """
def lambda_handler(event, context):
    return [{{"id": sample["id"], "aggregate_reward_score": {score}}} for sample in event]
"""


def code(score, imports=""):
    return imports + PLAIN.format(score=score).lstrip()


def only_from(wheels):
    """The environment of an installer that knows the packages of a folder only."""
    return {"UV_FIND_LINKS": str(wheels), "UV_OFFLINE": "1", "UV_CACHE_DIR": str(wheels.parent / "cache")}


def messages(folder, python):
    """What is wrong with a function whose python is given."""
    try:
        load_manifests([write_function(folder / "function.json", {"python": python})])
    except ManifestErrors as errors:
        return [error.message for error in errors.errors]
    return []


def test_the_code_imports_what_it_declares_and_nothing_else(server_for):
    source = code("float(np.array([0.25, 0.5]).sum())", "import numpy as np\n")
    assert server_for({"python": {"source": source, "requirements": ["numpy==2.*"]}}).score_one("x")[
        "aggregate_reward_score"
    ] == pytest.approx(0.75)
    # Libraries of the server and of this environment are out of reach, also with packages.
    hidden = "def names():\n    import importlib\n    out = []\n"
    hidden += "    for name in ('pydantic', 'orjson', 'boto3', 'torch', 'rft_api', 'transformers'):\n"
    hidden += "        try:\n            importlib.import_module(name)\n            out.append(name)\n"
    hidden += "        except ImportError:\n            pass\n    return len(out)\n"
    for requirements in ({}, {"requirements": ["numpy==2.*"]}):
        spec = {"python": {"source": hidden + code("float(names())"), **requirements}}
        assert server_for(spec).score_one("x")["aggregate_reward_score"] == 0.0


def test_python_graders_of_openai_import_the_same(server_for):
    """They used to import whatever the environment of the server had: on a laptop they passed, in a pod they failed."""
    source = "def grade(sample, item):\n    import importlib\n    try:\n        importlib.import_module('pydantic')\n"
    source += "    except ImportError:\n        return 0.0\n    return 1.0\n"
    grader = {"type": "python", "source": source}
    assert server_for({"openai": {"grader": grader}}).score_one("x")["aggregate_reward_score"] == 0.0
    source = "import numpy\ndef grade(sample, item):\n    return float(numpy.float64(0.5))\n"
    spec = {"openai": {"grader": {"type": "python", "source": source}, "requirements": ["numpy==2.*"]}}
    assert server_for(spec).score_one("x")["aggregate_reward_score"] == 0.5


def test_a_combined_reward_keeps_builtins_and_packages_apart(server_for):
    terms = [
        {"name": "exact", "builtin": {"name": "ExactMatch"}},
        {
            "name": "own",
            "weight": "2",
            "python": {
                "source": code("float(np.ones(2).sum())", "import numpy as np\n"),
                "requirements": ["numpy==2.*"],
            },
        },
        {"name": "overlap", "builtin": {"name": "Bleu"}},  # has a numpy of its own
    ]
    row = server_for({"combine": {"terms": terms}}).score_one("a b c d", "a b c d")
    components = {metric["name"]: metric["value"] for metric in row["metrics_list"]}
    assert (components["exact"], components["own"]) == (1.0, 2.0)
    assert row["aggregate_reward_score"] == pytest.approx(1.0 + 4.0 + components["overlap"])


def test_further_files_are_imported_and_read(server_for):
    source = "import pathlib\nfrom helpers import bonus\nfrom tools.words import first\n"
    source += "TEXT = (pathlib.Path(__file__).parent / 'data/words.txt').read_text()\n"
    source += code("bonus() + len(first(TEXT))")
    files = {
        "helpers.py": "def bonus():\n    return 0.5\n",
        "tools/words.py": "def first(text):\n    return text.split()[0]\n",
        "data/words.txt": "four more",
    }
    server = server_for({"python": {"source": source, "files": files}})
    assert server.score_one("x")["aggregate_reward_score"] == 4.5


def test_packages_are_installed_once(tmp_path):
    wheels = tmp_path / "wheels"
    build_wheel(wheels, "answers", "1.5", {"answers.py": "VALUE = 1\n"})
    function = write_function(
        tmp_path / "function.json", {"python": {"source": code("1.0"), "requirements": ["answers>=1"]}}
    )
    where = only_from(wheels)
    first = install_packages(function, tmp_path / "packages", **where)
    assert first.returncode == 0, first.stderr
    assert "answers 1.5" in first.stdout
    # Reward servers in a cluster have users of their own, and one group.
    (lock,) = (tmp_path / "packages").glob("*.lock")
    assert lock.stat().st_mode & 0o777 == 0o660
    for wheel in wheels.iterdir():
        wheel.unlink()  # nothing can be installed any more
    second = install_packages(function, tmp_path / "packages", **where)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    # An interrupted installation is made again: here it fails, and leaves nothing that would be used.
    (folder,) = [path for path in (tmp_path / "packages").iterdir() if path.is_dir()]
    (folder / "INSTALLED.json").unlink()
    third = install_packages(function, tmp_path / "packages", **where)
    assert third.returncode == ExitCode.CONFIGURATION_INVALID
    assert "the packages answers>=1 could not be installed" in third.stderr
    assert not [path for path in (tmp_path / "packages").iterdir() if path.is_dir()]


def test_installing_runs_no_code_of_a_package(tmp_path):
    touched = tmp_path / "touched"
    build_source_distribution(tmp_path / "wheels", "eager", "1.0", f"open({str(touched)!r}, 'w').write('x')\n")
    function = write_function(
        tmp_path / "function.json", {"python": {"source": code("1.0"), "requirements": ["eager"]}}
    )
    process = install_packages(function, tmp_path / "packages", **only_from(tmp_path / "wheels"))
    assert process.returncode == ExitCode.CONFIGURATION_INVALID
    assert "Only wheels are installed" in process.stderr
    assert not touched.exists()


def test_code_that_a_package_runs_when_it_is_imported_is_confined(tmp_path, start_server, monkeypatch):
    victim, wheels = tmp_path / "victim", tmp_path / "wheels"
    victim.write_text("untouched")
    victim.chmod(0o666)
    tmp_path.chmod(0o755)
    reports = "import os, socket\nDONE = []\n"
    for name, attempt in {
        "victim": f"open({str(victim)!r}, 'w').write('x')",
        "own": "open(__file__, 'a').write('x')",
        "network": "socket.create_connection(('127.0.0.1', 1))",
        "environment": "os.environ['SECRET_OF_THE_SERVER']",
    }.items():
        reports += f"try:\n    {attempt}\n    DONE.append({name!r})\nexcept ConnectionRefusedError:\n"
        reports += f"    DONE.append({name!r})\nexcept Exception:\n    pass\n"
    # A .pth file would run in every interpreter that reads the folder as site-packages.
    path_file = f"import os; open({str(victim)!r}, 'w').write('x')\n"
    build_wheel(wheels, "hostile", "1", {"hostile.py": reports, "hostile.pth": path_file})
    for name, value in only_from(wheels).items():
        monkeypatch.setenv(name, value)
    source = code("float(len(hostile.DONE))", "import hostile\n")
    server = start_server(
        {"python": {"source": source, "requirements": ["hostile"]}},
        packages=tmp_path / "packages",
        environment={"SECRET_OF_THE_SERVER": "kept"},
    ).wait_ready()
    row = server.score_one("x")
    assert row["aggregate_reward_score"] == 0.0, row
    assert victim.read_text() == "untouched"


def test_the_time_of_an_import_counts_against_no_batch(tmp_path, start_server, monkeypatch):
    """Also when a worker is replaced, and when the code imports the package in a function only."""
    wheels = tmp_path / "wheels"
    build_wheel(wheels, "slow", "1", {"slow.py": "import time\ntime.sleep(8)\n"})
    for name, value in only_from(wheels).items():
        monkeypatch.setenv(name, value)
    source = "import os\ndef score(text):\n    import slow\n    return os._exit(1) if text == 'end' else 0.5\n"
    source += code("score(sample['messages'][-1]['content'])")
    spec = {"python": {"source": source, "requirements": ["slow"]}, "sandbox": {"processes": 1}, "timeout": "5s"}
    server = start_server(spec, packages=tmp_path / "packages").wait_ready()
    assert server.score_one("x")["aggregate_reward_score"] == 0.5
    assert "ended its process" in server.score_one("end")["error"]
    assert server.score_one("x")["aggregate_reward_score"] == 0.5


def test_a_server_without_its_packages_says_how_to_install_them(tmp_path):
    function = write_function(
        tmp_path / "function.json", {"python": {"source": code("1.0"), "requirements": ["numpy==2.*"]}}
    )
    command = [sys.executable, "-m", "rft_reward", "--function", str(function), "--packages", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == ExitCode.CONFIGURATION_INVALID
    assert "rft_reward.packages --function" in process.stderr


def test_packages_of_the_image_are_used_when_they_satisfy(tmp_path):
    wheels, image = tmp_path / "wheels", tmp_path / "image"
    wheel = build_wheel(wheels, "answers", "1.5", {"answers.py": "VALUE = 1\n"})
    zipfile.ZipFile(wheel).extractall(image)
    assert installed_versions(image) == {"answers": "1.5"}
    assert satisfies(image, ["Answers >=1, <2"])
    assert not satisfies(image, ["answers==2.*"])
    assert not satisfies(image, ["answers", "numpy"])
    # An extra needs further packages, which may need extras in turn.
    needs = ["first; python_version > '3'", "second>=2; extra == 'more'", "answers[more]; extra == 'all'"]
    zipfile.ZipFile(build_wheel(wheels, "answers", "1.5", {}, needs)).extractall(image)
    zipfile.ZipFile(build_wheel(wheels, "second", "1", {})).extractall(image)
    assert satisfies(image, ["answers"])
    assert not satisfies(image, ["answers[more]"])
    assert not satisfies(image, ["answers[all]"])
    shutil.rmtree(image / "second-1.dist-info")
    zipfile.ZipFile(build_wheel(wheels, "second", "2", {})).extractall(image)
    assert satisfies(image, ["answers[more,all]"])
    function = write_function(
        tmp_path / "function.json", {"python": {"source": code("1.0"), "requirements": ["answers==1.5"]}}
    )
    process = install_packages(function, tmp_path / "packages", **only_from(tmp_path), **{BUNDLED_PACKAGES: str(image)})
    assert process.returncode == 0, process.stderr
    assert str(image) in process.stdout
    assert not (tmp_path / "packages").exists()


@pytest.mark.parametrize(
    "requirement",
    [
        "./wheels/answers.whl", "/etc/passwd", "answers @ https://example.com/answers.whl", "git+https://example.com/a",
        "--index-url=https://example.com", "-r other.txt", "answers; python_version > '3'", "a b", "",
        "answers==1 --hash=x",
    ],
)  # fmt: skip
def test_requirements_that_name_a_path_or_a_url_are_refused(tmp_path, requirement):
    (message,) = messages(tmp_path, {"source": code("1.0"), "requirements": [requirement]})
    assert "must be the name of a package" in message or "at least 1 character" in message


@pytest.mark.parametrize(
    ("imports", "more", "says"),
    [
        ("import numpy\n", {}, "imports numpy, which is not in Python's library: add numpy to requirements"),
        ("import numpy\n", {"requirements": ["numpy==2.*"]}, None),
        ("from scipy.stats import norm\n", {"requirements": ["numpy"]}, "add scipy to requirements"),
        ("import yaml, sklearn\n", {"requirements": ["PyYAML", "scikit_learn"]}, None),
        ("import boto3\n", {}, "Reward code has no network"),
        ("from .helpers import x\n", {}, "write `from helpers import ...` and put helpers.py into files"),
        ("import helpers\n", {"files": {"helpers.py": "x = 1\n"}}, None),
        ("import helpers\n", {"files": {"helpers.py": "import pandas\n"}}, "add pandas to requirements"),
        ("import helpers\n", {"files": {"helpers.py": "def (\n"}}, "is not valid Python"),
        ("try:\n    import numpy\nexcept ImportError:\n    numpy = None\n", {}, None),
        ("import unguessable\n", {"requirements": ["some-distribution"]}, None),
        ("import helpers\n", {"files": {"../helpers.py": "x = 1\n"}}, "must be a relative path"),
    ],
)  # fmt: skip
def test_imports_are_checked_before_anything_runs(tmp_path, imports, more, says):
    texts = messages(tmp_path, {"source": code("1.0", imports), **more})
    assert (not texts) if says is None else any(says in text for text in texts), texts


def test_a_missing_import_names_the_line(tmp_path):
    manifest = tmp_path / "reward.yaml"
    manifest.write_text(
        "apiVersion: rft.dev/v1alpha1\nkind: RewardFunction\nmetadata: {name: r}\nspec:\n  python:\n    source: |\n"
        + "".join(f"      {line}\n" for line in code("1.0", "import json\nimport numpy\n").splitlines())
    )
    with pytest.raises(ManifestErrors) as caught:
        load_manifests([manifest])
    assert str(caught.value).startswith(f"{manifest}:8: spec.python.source: imports numpy")


def test_code_in_a_file_beside_the_manifest(tmp_path):
    (tmp_path / "reward.py").write_text(code("1.0"))
    spec = {"python": {"sourceFrom": {"file": "reward.py"}, "files": {"helpers.py": "x = 1\n"}}}
    function = load_manifests([write_function(tmp_path / "function.json", spec)]).reward_functions["test"]
    assert function.spec.python.source == code("1.0")
    assert function.spec.python.source_from is None
    assert function.spec.python.files == {"helpers.py": "x = 1\n"}
    (tmp_path / "reward.py").unlink()
    with pytest.raises(ManifestErrors, match=r"reward\.py: No such file"):
        load_manifests([tmp_path / "function.json"])


def test_the_digest_does_not_depend_on_order_or_spaces():
    assert requirements_digest(["a", "b==1"], "x") == requirements_digest(["b ==1", "a"], "x")
    assert requirements_digest(["a"], "x") != requirements_digest(["a"], "y")
    assert missing_modules(["json", "numpy", "os"], []) == ["numpy"]


def test_documents_without_packages_are_as_before():
    """The digest of a reward decides whether a run may be resumed: new fields must not change it."""
    assert json.dumps(PythonReward(source="x = 1").to_json_object()) == json.dumps(
        {"source": "x = 1", "handler": "lambda_handler"}
    )
