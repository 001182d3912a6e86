"""Run the notebooks as Colab runs them: its versions, an empty folder, nothing of ours installed.

usage: python -m tools.colab [--python PYTHON] [--as-is] [--student] [--jobs N] [NOTEBOOK ...]
       python -m tools.colab --prepare

Makes an environment with the versions of Colab's image (VERSIONS below) and a stand-in for
`google.colab`, and for each notebook an empty folder with nothing but it. The setup cell of the
first notebook installs labkit, through git from a copy of this working tree that stands at the
published address; the next ones have the same cell and find it there. nbval runs them on the
embedded digits: a failing check, an output that differs where it must not, or a package that the
installation moved, fails the lane.

The real torch and torchvision are not installed: a CUDA build of nearly 5 GB, which no notebook
imports on the embedded digits. Two empty packages of their names and versions stand in, so that
pip sees what it would see on Colab. With --as-is nothing is made: the environment of PYTHON (this
one by default) is used as it stands, so that the weekly run can use Colab's image itself.

With --student the notebooks run as students get them, without solutions: one run then shows that
they work untouched, in Colab's versions, and that every check says *not attempted yet*, as stored.
With --jobs several run at once, each on its share of the cores, after the first has installed.
With --prepare nothing runs: the environment is made, for a later call.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tools import run as runner
from tools import stamp, student

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build" / "colab"
# Colab's image of August 2026, as far as labkit and the notebooks meet it; never labkit's extras.
VERSIONS = """
ipykernel==6.17.1 ipython==7.34.0 ipywidgets==7.7.1 jax==0.7.2 jaxlib==0.7.2 matplotlib==3.10.0
numpy==2.1.3 optax==0.2.8 scikit-learn==1.6.1 tqdm filelock
""".split()
STAND_INS = {
    "torch": ("2.11.0", {}),
    "torchvision": ("0.26.0", {}),
    "notebook": ("6.5.7", {}),  # the page around the kernel, which ipywidgets 7 asks for
    "google-colab": ("1.0.0", {"google/colab/__init__.py": '"""A stand-in."""\n'}),
}
TOGETHER = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
# What a kernel on Colab has to do with the widgets of `plot.live`; runs in the lane's kernel.
WIDGETS = """\
import google.colab  # as Colab's own kernel does
import ipywidgets as widgets
from labkit import plot

drawn = []
rate = widgets.FloatSlider(value=0.5)
start = widgets.Dropdown(options=["zero", "random"])
plot.live(lambda rate, start: print(drawn.append((rate, start)) or rate), rate=rate, start=start)
rate.value, start.value = 0.25, "random"
assert drawn == [(0.5, "zero"), (0.25, "zero"), (0.25, "random")], drawn"""


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A package of that name and version with these files (path: text) and nothing else."""
    stem = f"{name.replace('-', '_')}-{version}"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in (files | {f"{stem}.dist-info/{k}": v for k, v in about.items()}).items():
            archive.writestr(file, text)
    return path


class Moved(Exception):
    """An installation changed or removed a package that was there before."""


class Environment:
    """A virtual environment with Colab's versions, kept in _build/colab until they change.

    Or, with `as_is`, the environment of the given Python.
    """

    def __init__(self, python: str, as_is: bool = False):
        self.python = Path(python) if as_is else BUILD / "environment" / "bin" / "python"
        self.before = self.freeze() if as_is else self.make(python)
        ours = {"labkit", "equinox", "jaxtyping"} & {_name(line) for line in self.before}
        if ours:
            raise SystemExit(f"{python} has {', '.join(ours)} already, which Colab has not.")

    def make(self, python: str) -> list[str]:
        """Make the environment with Colab's versions where it is not there; what it holds."""
        recipe, ready = [_output([python, "-VV"]), VERSIONS, STAND_INS], BUILD / "ready.json"
        made = json.loads(ready.read_text("utf-8")) if ready.is_file() else {}
        if made.get("recipe") != json.loads(json.dumps(recipe)):
            shutil.rmtree(BUILD, ignore_errors=True)
            _run([python, "-m", "venv", BUILD / "environment"])
            with tempfile.TemporaryDirectory() as wheels:
                stand_ins = [wheel(Path(wheels), k, *about) for k, about in STAND_INS.items()]
                self.pip("install", "--quiet", *VERSIONS, *stand_ins)
            made = {"recipe": recipe, "packages": self.freeze()}
            ready.write_text(json.dumps(made), "utf-8")
        return made["packages"]

    def pip(self, *arguments) -> None:
        _run([self.python, "-m", "pip", *arguments])

    def freeze(self) -> list[str]:
        """What `pip freeze` lists: one line for each package."""
        return _output([self.python, "-m", "pip", "freeze", "--all"]).splitlines()

    def restore(self) -> None:
        """Remove every package that a setup cell added."""
        added = [_name(line) for line in additions(self.before, self.freeze())]
        if added:
            self.pip("uninstall", "--quiet", "--yes", *added)


def additions(before: list[str], after: list[str]) -> list[str]:
    """The packages that an installation added; Moved where it changed or removed one."""
    moved = sorted(set(before) - set(after))
    if moved:
        now = {_name(line): line for line in after}
        changes = [f"{line} became {now.get(_name(line), 'nothing')}" for line in moved]
        raise Moved(
            "the setup cell changed what Colab has installed: " + "; ".join(changes) + ". "
            "Lower the bound in pyproject.toml, or find out which dependency asks for more."
        )
    return sorted(set(after) - set(before), key=str.lower)


def publish(folder: Path, branch: str = "main") -> dict[str, str]:
    """Put this working tree into a git repository in `folder`; the variables that make git find it
    at the published address."""
    git = ["git", "-c", f"safe.directory={ROOT}"]  # the checkout may be someone else's
    listed = _output([*git, "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    author = ["-c", "user.name=lane", "-c", "user.email=lane@example.org"]
    _run(["git", "init", "--quiet", f"--initial-branch={branch}", folder])
    _run(["git", "-C", folder, "add", "--all"])
    _run(["git", "-C", folder, *author, "commit", "--quiet", "--no-verify", "-m", "working tree"])
    return redirect(stamp.address()[0], folder.as_uri())


def redirect(address: str, target: str) -> dict[str, str]:
    """The variables that make git look at `target` where it is told `address`."""
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{target}.insteadOf",
        "GIT_CONFIG_VALUE_0": address,
    }


def write_kernel(folder: Path, python: Path) -> dict[str, str]:
    """Make the lane's kernel known to Jupyter under the name `colab`."""
    kernel = folder / "kernels" / "colab"
    kernel.mkdir(parents=True, exist_ok=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": command, "display_name": "Colab's versions", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(about), "utf-8")
    return {"JUPYTER_PATH": str(folder)}


def run(notebook: Path, environment: dict[str, str], for_students: bool = False) -> bool:
    """Run a notebook with nbval in an empty folder; whether everything was as stored."""
    with tempfile.TemporaryDirectory() as folder:
        book = nbformat.read(notebook, as_version=4)
        if for_students:
            book, _ = student.student_edition(book, notebook.stem, outputs=True)
        nbformat.write(book, Path(folder, notebook.name))
        options = ["--nbval-lax", "--nbval-kernel-name=colab", "--nbval-cell-timeout=600"]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *options]
        began = time.perf_counter()
        done = subprocess.run([*command, notebook.name], cwd=folder, env=environment, **TOGETHER)
        print(f"{done.stdout}{notebook.name}: {time.perf_counter() - began:.0f} s", flush=True)
        return not done.returncode


def seconds(notebook: Path) -> float:
    """How long a notebook takes, as far as it was measured."""
    return stamp.measured().get(notebook.stem, {}).get("cpu", {}).get("seconds", 0)


def run_widgets(environment: dict[str, str]) -> None:
    """Move the controls of `plot.live` in the lane's kernel; an AssertionError where it fails."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(WIDGETS)])
    NotebookClient(book, kernel_name="colab", timeout=120).execute(env=environment)
    shown = [output.get("data", {}) for output in book.cells[0].outputs]
    if not any("application/vnd.jupyter.widget-view+json" in data for data in shown):
        raise AssertionError(f"plot.live shows no widget: {shown}")


def _name(line: str) -> str:
    return re.split(r"==| @ ", line)[0].lower().replace("_", "-")


def _run(command: list, **options) -> None:
    subprocess.run([str(part) for part in command], check=True, **options)


def _output(command: list, **options) -> str:
    command = [str(part) for part in command]
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="all of them where none is given")
    parser.add_argument("--python", default=sys.executable, help="what makes the environment")
    parser.add_argument("--as-is", action="store_true", help="use the environment of that Python")
    parser.add_argument("--student", action="store_true", help="run the student edition")
    parser.add_argument("--jobs", type=int, default=1, help="how many notebooks at once")
    parser.add_argument("--prepare", action="store_true", help="only make the environment")
    options = parser.parse_args(arguments)
    notebooks = options.notebooks or sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    began = time.perf_counter()
    place = Environment(options.python, options.as_is)
    print(f"environment: {time.perf_counter() - began:.0f} s", flush=True)
    if options.prepare:
        return
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LABKIT_")}
        environment.pop("PYTHONPATH", None)
        environment |= publish(scratch / "repository")
        environment |= write_kernel(scratch / "jupyter", place.python)
        environment |= {"LABKIT_DATASET": "digits", "LABKIT_DATA": str(scratch / "data")}
        environment |= {"LABKIT_CACHE": str(scratch / "cache"), "TQDM_DISABLE": "1"}
        environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # a warning of the kernel's debugger
        os.environ["JUPYTER_PATH"] = environment["JUPYTER_PATH"]
        try:
            place.restore()
            first, *others = [path.resolve() for path in notebooks]
            passed = {first.name: run(first, environment, options.student)}
            if "labkit" not in map(_name, place.freeze()):
                raise SystemExit(
                    f"the setup cell of {first.name} did not install labkit; see above"
                )
            worker = count()
            with ThreadPoolExecutor(
                options.jobs, initializer=lambda: runner.take_share(next(worker), options.jobs)
            ) as pool:
                started = {
                    other.name: pool.submit(run, other, environment, options.student)
                    for other in sorted(others, key=seconds, reverse=True)  # the longest first
                }
                passed |= {name: one.result() for name, one in started.items()}
            failed = sorted(name for name, good in passed.items() if not good)
            added = additions(place.before, place.freeze())
            print("the setup cell added", ", ".join(added) or "nothing: it did not run")
            if not failed:
                run_widgets(environment)
                print("plot.live redraws when a control moves")
        except Moved as error:
            shutil.rmtree(BUILD, ignore_errors=True)  # it no longer has Colab's versions
            raise SystemExit(str(error)) from None
    if failed:
        raise SystemExit(f"in Colab's versions {', '.join(failed)} failed; see above")


if __name__ == "__main__":
    main()
