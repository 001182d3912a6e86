"""The house: its size, its imports, what is installed, the two commands, the environment."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from graphlib import TopologicalSorter

import pytest
import yaml

from tools import ROOT, colab

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CORE = ("session", "data", "plot", "fit", "check")
SUPPORT = ("files", "download", "history")  # what core may use; no student needs to look there
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("labkit", "tools")
    for path in (ROOT / package).rglob("*.py")
}
needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def lines(*paths):
    return sum(len(path.read_text("utf-8").splitlines()) for path in paths)


def test_labkit_can_be_read_in_one_sitting_and_the_whole_stays_small():
    assert lines(*(MODULES[f"labkit.{name}"] for name in CORE)) <= 900
    checks = [path for name, path in MODULES.items() if name.startswith("labkit.exercises.nb")]
    assert lines(*MODULES.values()) - lines(*checks) <= 5556, "this number may only fall"
    number = sum(path.read_text("utf-8").count("\n@exercise(") for path in checks)
    assert lines(*checks) <= 72 * number


def imported(name):
    """The modules of ours that a module imports, anywhere in its text, types apart."""
    tree, found = ast.parse(MODULES[name].read_text("utf-8")), set()
    ifs = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    typing = {n for node in ifs if "TYPE_CHECKING" in ast.dump(node.test) for n in ast.walk(node)}
    for node in set(ast.walk(tree)) - typing:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n if n in MODULES else node.module for n in names}
    return {n for n in found if n in MODULES} - {name}


def test_imports_go_one_way_and_without_a_circle():
    graph = {name: imported(name) for name in MODULES}
    assert graph["labkit.session"] and graph["tools.stamp"], "the graph is not empty"
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError
    for name, used in graph.items():
        if name.startswith("labkit"):
            assert not [other for other in used if other.startswith("tools")], name
    allowed = {f"labkit.{name}" for name in (*CORE, *SUPPORT)} | {"labkit"}
    for name in allowed & set(graph):
        assert graph[name] <= allowed, f"{name} must not need {graph[name] - allowed}"


def test_what_colab_installs_holds_no_grader_no_benchmark_no_page(tmp_path):
    pytest.importorskip("setuptools", "68", reason="building labkit needs it, or the internet")
    shutil.copytree(ROOT / "labkit", tmp_path / "labkit")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    held = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name]
    assert {"labkit/session.py", "labkit/expected.toml", "labkit/exercises/nb00.py"} <= set(held)
    assert any(name.startswith("labkit/compare/reference/") for name in held)
    files = [path for path in (ROOT / "labkit").rglob("*.*") if path.suffix not in (".py", ".pyc")]
    packed = {name for name in held if not name.endswith(".py")}
    assert packed == {path.relative_to(ROOT).as_posix() for path in files}, "package-data"
    assert not [name for name in held if re.search("grad|bench|sandbox|site|logo|tests?/", name)]


def test_environments_have_torchvision_only_if_asked_and_lower_bounds_only():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    python, *others = environment["dependencies"]
    assert re.fullmatch(r"python=3\.\d+", python), "Binder takes an older one for anything else"
    assert others == ["pip", "torchvision", {"pip": ["-e .[lab]"]}]
    for requirement in PROJECT["dependencies"]:
        assert re.fullmatch(r"(?!torch)[a-z-]+>=[\d.]+", requirement), requirement


def test_what_colab_preinstalls_satisfies_the_lower_bounds():
    """Versions of Colab's image of August 2026, as the lane installs them."""
    pinned = dict(line.split("==") for line in colab.VERSIONS + colab.STAND_INS if "==" in line)
    bounds = dict(requirement.split(">=") for requirement in PROJECT["dependencies"])
    missing = bounds.keys() - pinned.keys()
    assert {"equinox", "jaxtyping"} <= missing, "what the setup cell has to add"
    assert {"jax", "numpy"}.isdisjoint(missing)
    as_numbers = lambda version: [int(part) for part in version.split(".")]
    for package in bounds.keys() - missing:
        assert as_numbers(bounds[package]) <= as_numbers(pinned[package]), package


@pytest.fixture
def clone(tmp_path):
    """A copy of this project in a folder with a space and an umlaut, its environment faked from
    this one's packages; and make(...) in it."""
    folder = tmp_path / "Übung 1" / "energy lab"
    folder.mkdir(parents=True)
    for name in (
        "Makefile",
        "pyproject.toml",
        "_config.yml",
        "_toc.yml",
        "README.md",
        "CITATION.cff",
        "conftest.py",
    ):
        shutil.copy(ROOT / name, folder)
    for name in ("labkit", "tools", "pages", "notebooks", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    python = folder / ".venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", python.parents[1]], check=True)
    (theirs,) = (folder / ".venv").rglob("site-packages")
    (theirs / "here.pth").write_text(f"{folder}\n{sysconfig.get_path('purelib')}\n", "utf-8")
    (folder / ".venv" / ".ready").touch()

    def make(*arguments, where=folder, **environment):
        hidden = ("PYTHONPATH", "LABKIT_", "PYTEST_", "MAKE", "MFLAGS", "COVERAGE")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        done = subprocess.run(
            ["make", *arguments], cwd=where, capture_output=True, text=True, env=kept | environment
        )
        return done.returncode, done.stdout + done.stderr

    return folder, make


@needs_make
@pytest.mark.skipif(os.name == "nt", reason="no make on Windows")
def test_commands_work_in_a_folder_with_a_space_and_mend_a_broken_environment(clone):
    folder, make = clone
    code, said = make("stamp")
    assert not code and "pip install" not in said, said
    code, said = make(
        "test", "ARGS=-k markers tests/tools/test_stamp.py -p no:cacheprovider", "JOBS=1"
    )
    assert not code and "1 passed" in said, said
    # A new dependency is installed into what is there; a broken environment is made anew.
    os.utime(folder / "pyproject.toml")
    mended = lambda **options: make("--dry-run", "lab", **options)[1]
    assert "pip install" in mended() and "venv --clear" not in mended()
    (folder / ".venv" / ".ready").touch()
    assert "pip install" not in mended()
    moved = folder.with_name("renamed")
    folder.rename(moved)
    assert "venv --clear" in mended(where=moved)
    moved.rename(folder)
    assert "venv --clear" not in mended()
    (folder / ".venv" / "bin" / "python").unlink()
    (folder / ".venv" / "bin" / "python").symlink_to("/nowhere/python3")
    assert "venv --clear" in mended()


@needs_make
@pytest.mark.skipif(os.name == "nt", reason="no make on Windows")
def test_python_3_13_is_chosen_if_it_runs(clone, tmp_path):
    folder, make = clone
    (tmp_path / "python3.13").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for name in ("python3.13", "python3"):
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    shutil.rmtree(folder / ".venv")
    home = tmp_path / "no home"
    assert '"python3" -m venv --clear' in make("-n", "lab", PATH=path, HOME=str(home))[1]
    own = home / ".pyenv" / "versions" / "3.13.99" / "bin" / "python3.13"
    own.parent.mkdir(parents=True)
    own.symlink_to(tmp_path / "python3")
    assert f'"{own}" -m venv --clear' in make("-n", "lab", PATH=path, HOME=str(home))[1]


@needs_make
def test_every_command_is_explained_and_passes_options_on():
    text, shown = (ROOT / "CONTRIBUTING.md").read_text("utf-8"), {}
    targets = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert {"lab", "update", "test", "gpu", "grade", "run", "refresh", "bench"} <= set(targets)
    for target in targets:
        assert f"`make {target}" in text, f"CONTRIBUTING.md does not explain `make {target}`"
        command = ["make", "--dry-run", target, "ARGS=--some-option", "REPO=somewhere"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        shown[target] = done.stdout
        plain = target in ("stamp", "publish-address", "clean", "update")
        assert not done.returncode and (plain or "--some-option" in shown[target]), target
    # Nothing here has a GPU: what would run there is only looked at.
    steps = ('install --quiet --editable ".[gpu]"', "tools.run --gpu", "tools.refresh --seen")
    assert re.search(".*".join(map(re.escape, steps)), shown["gpu"], re.S)


@needs_make
@pytest.mark.skipif(not shutil.which("bash") or os.name == "nt", reason="needs bash")
def test_ci_is_a_script_of_targets_that_exist():
    script, makefile = ((ROOT / name).read_text("utf-8") for name in (".ci/run", "Makefile"))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for target in re.findall(r"(?m)(?:^|[;{] ) *make ([a-z-]+)", script):
        assert re.search(rf"(?m)^{target}:", makefile), target
    assert "set -euo pipefail" in script


def test_nothing_tracked_names_a_machine_or_holds_mnist():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        assert "ubyte" not in name, name
        if name.endswith(".npz"):
            assert name.startswith(("labkit/compare/", "pages/live/")), name
        assert re.match(r"(?!notebooks/)|notebooks/(\d\d_\w+\.ipynb|notation\.md)$", name), name
        text = (ROOT / name).read_bytes().decode("utf-8", "ignore")
        if not name.startswith("tests/"):
            assert not re.search(r"(?<![\w.~:/])/(?:root|home|work|Users)/\w", text), name


@needs_make
def test_clean_spares_what_somebody_may_have_written(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("_build/student/a.ipynb", "_build/html/a.html", "labkit/__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for name in ("notebooks", "tests", "tools"):
        (tmp_path / name).mkdir()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert left == {"_build/student/a.ipynb"}
