"""The two commands, the environment, the licence: what a clone promises before anything runs."""

import re
import shutil
import subprocess
import tomllib

import pytest
import yaml

from labkit.compare import answers
from tools import ROOT, colab

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_environment_yml_holds_python_pip_and_the_package_only():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    python, pip, by_pip = environment["dependencies"]
    minor = int(re.fullmatch(r"python=3\.(\d+)", python)[1])
    assert minor >= int(PROJECT["requires-python"].split(".")[1]) and pip == "pip"
    index, package = by_pip["pip"]  # the CPU build of PyTorch, where its index can be reached
    assert index.split()[1] in (ROOT / "Makefile").read_text("utf-8")
    (extras,) = re.fullmatch(r"-e \.\[([\w,]+)\]", package).groups()
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_dependencies_are_lower_bounds():
    for requirement in PROJECT["dependencies"]:
        assert re.fullmatch(r"[a-z-]+>=[\d.]+", requirement), requirement
    assert {"lab", "test", "book", "gpu"} <= PROJECT["optional-dependencies"].keys()


def test_what_colab_preinstalls_satisfies_the_lower_bounds():
    """Versions of Colab's image of August 2026, as the lane installs them."""
    pinned = dict(line.split("==") for line in colab.VERSIONS + colab.STAND_INS if "==" in line)
    bounds = dict(requirement.split(">=") for requirement in PROJECT["dependencies"])
    missing = bounds.keys() - pinned.keys()
    assert missing == {"equinox", "filelock", "jaxtyping", "pillow", "platformdirs", "tqdm"}
    as_numbers = lambda version: [int(part) for part in version.split(".")]
    for package in bounds.keys() - missing:
        assert as_numbers(bounds[package]) <= as_numbers(pinned[package]), package


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("lab", "jupyter lab"),
        ("test", "python -m pytest"),
        ("book", "jupyter-book build -W -n --keep-going"),
        ("site-test", "LABKIT_SITE=1 .venv/bin/python -m pytest tests/test_site.py"),
        ("execute", "tools/execute.py"),
        ("colab", "tools/colab.py"),
        ("student", "tools/student.py"),
        ("stamp", "tools/stamp.py"),
        ("bench", "tools/bench.py"),
        ("publish-address", "tools/stamp.py"),
        ("clean", "rm -rf .venv _build"),
    ],
)
def test_each_command_of_the_readme_exists(target, words):
    command = ["make", "--dry-run", target, "ARGS=--some-option", "REPO=somewhere"]
    dry = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0 and words in dry.stdout
    assert f"make {target}" in (ROOT / "README.md").read_text("utf-8")
    if target not in ("clean", "stamp", "publish-address"):
        assert "--some-option" in dry.stdout


def test_the_cpu_index_is_asked_once_briefly_and_alone():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    line = next(line for line in makefile.splitlines() if "$(CPU_TORCH)" in line)
    for option in ("--isolated", "--retries 0", "--timeout 5", "--index-url", "torch torchvision"):
        assert option in line


def test_nothing_tracked_names_a_machine_or_holds_mnist():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        assert "ubyte" not in name, name
        assert not name.endswith(".npz") or name.startswith("labkit/compare/reference/"), name
        text = (ROOT / name).read_bytes().decode("utf-8", "ignore")
        if name not in ("tests/test_notebooks.py", "tests/test_project.py"):
            assert not re.search(r"(?<![\w.~:/])/(?:root|home|work|Users)/\w", text), name


def test_licences():
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert "MIT License" in licence and "CC BY 4.0" in licence


def test_recorded_tables_say_where_they_are_from_and_are_shown():
    tables = sorted((ROOT / "labkit" / "compare" / "recorded").glob("[0-9]*.csv"))
    assert tables
    notebooks = "".join(path.read_text("utf-8") for path in (ROOT / "notebooks").glob("*.ipynb"))
    for table in tables:
        about, rest = table.read_text("utf-8").split("\n", 3)[:3], answers.recorded(table.stem)
        assert [line.split(":")[0] for line in about] == ["# dataset", "# device", "# versions"]
        assert len({len(column) for column in rest.values()}) == 1
        assert f'recorded(\\"{table.stem}\\")' in notebooks
        assert table.stat().st_size < 20_000


def test_recorded_pictures_belong_to_a_table_and_are_shown():
    notebooks = "".join(p.read_text("utf-8") for p in (ROOT / "notebooks").glob("*.ipynb"))
    pictures = sorted((ROOT / "labkit" / "compare" / "recorded").glob("[0-9]*.png"))
    assert pictures
    for picture in pictures:
        assert picture.with_suffix(".csv").is_file()
        assert f'show_recorded(\\"{picture.stem}\\"' in notebooks
