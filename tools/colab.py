"""Run the notebooks as Colab runs them: its versions, an empty folder, nothing of ours installed.

usage: python -m tools.colab [--as-is PYTHON] [--student] [--jobs N] [NOTEBOOK ...]
       python -m tools.colab --prepare

A setup cell installs labkit into an environment with the versions of Colab's image, through git
from a copy of this working tree at the published address and version. Then nbval runs each notebook
in an empty folder, on the small digits. A package that the installation moved fails the lane, and
so do a failing check and an output that differs where it must not.

The real torch and torchvision, a CUDA build of nearly 5 GB, are not needed; empty packages of their
names stand in, so that pip sees what it would see on Colab. With --as-is nothing is made: the
environment of PYTHON is used as it is, so that the weekly run can use Colab's own image.

With --student the notebooks run as students get them: one run then shows that they work untouched,
in Colab's versions, and that every check says *not attempted yet*, as stored. With --jobs several
run at once, each on its share of the cores. --prepare only makes the environment.
"""

import argparse
import hashlib
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

from tools import ROOT, notebooks, read, stamp, student
from tools.run import take_share

BUILD = ROOT / "_build" / "colab"
# Colab's image of August 2026, as far as labkit and the notebooks meet it; never labkit's extras.
VERSIONS = """
ipykernel==6.17.1 ipython==7.34.0 ipywidgets==7.7.1 jax==0.7.2 jaxlib==0.7.2 matplotlib==3.10.0
numpy==2.1.3 optax==0.2.8 scikit-learn==1.6.1 tqdm filelock
""".split()
# `notebook` is the page around the kernel, which ipywidgets 7 asks for.
STAND_INS = "torch==2.11.0 torchvision==0.26.0 notebook==6.5.7 google_colab==1.0.0".split()
WIDGET = "application/vnd.jupyter.widget-view+json"
# What a kernel on Colab has to do with the widgets of `plot.live`.
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


def stand_in(folder: Path, name: str, version: str) -> Path:
    """A wheel of that name and version, empty but for the module `google.colab`."""
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {"METADATA": about, "WHEEL": tags, "RECORD": ""}.items():
            archive.writestr(f"{name}-{version}.dist-info/{file}", text)
        if name == "google_colab":
            archive.writestr("google/colab/__init__.py", "")
    return path


def prepare() -> tuple[Path, list[str]]:
    """Make the environment with Colab's versions unless it is there; its Python and packages.

    Other versions get another folder. One in which a package has moved is made anew.
    """
    recipe = hashlib.sha256(repr([sys.version, VERSIONS, STAND_INS]).encode()).hexdigest()[:12]
    python, listed = BUILD / recipe / "bin" / "python", BUILD / recipe / "packages.txt"
    if not listed.exists() or set(listed.read_text("utf-8").splitlines()) - set(freeze(python)):
        _run([sys.executable, "-m", "venv", "--clear", BUILD / recipe])
        with tempfile.TemporaryDirectory() as wheels:
            made = [stand_in(Path(wheels), *line.split("==")) for line in STAND_INS]
            _run([python, "-m", "pip", "install", "--quiet", *VERSIONS, *made])
        listed.write_text("\n".join(freeze(python)), "utf-8")
    return python, listed.read_text("utf-8").splitlines()


def freeze(python: Path) -> list[str]:
    """What `pip freeze` lists: one line for each package."""
    return _run([python, "-m", "pip", "freeze", "--all"]).splitlines()


def additions(before: list[str], after: list[str]) -> list[str]:
    """The packages that an installation added; SystemExit if it changed or removed one."""
    if moved := sorted(set(before) - set(after)):
        now = {_name(line): line for line in after}
        changes = [f"{line} became {now.get(_name(line), 'nothing')}" for line in moved]
        raise SystemExit(
            "the setup cell changed what Colab has installed: " + "; ".join(changes) + ". "
            "Lower the bound in pyproject.toml, or find out which dependency asks for more."
        )
    return sorted(set(after) - set(before), key=str.lower)


def publish(folder: Path) -> dict[str, str]:
    """Put this working tree into a git repository in `folder`, with the tag of its version; the
    variables that make git find it at the published address."""
    git = ["git", "-c", f"safe.directory={ROOT}"]  # the checkout may be someone else's
    listed = _run([*git, "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git = ["git", "-C", folder, "-c", "user.name=lane", "-c", "user.email=lane@example.org"]
    _run([*git, "init", "--quiet"])
    _run([*git, "add", "--all"])
    _run([*git, "commit", "--quiet", "--no-verify", "-m", "working tree"])
    _run([*git, "tag", f"v{stamp.words()['version']}"])
    return redirect(stamp.address()[0], folder.as_uri())


def redirect(address: str, target: str) -> dict[str, str]:
    """The variables that make git look at `target` where it is told `address`."""
    named = {"KEY_0": f"url.{target}.insteadOf", "VALUE_0": address, "COUNT": "1"}
    return {f"GIT_CONFIG_{name}": value for name, value in named.items()}


def write_kernel(folder: Path, python: Path) -> dict[str, str]:
    """Make the lane's kernel known to Jupyter under the name `colab`."""
    kernel = folder / "kernels" / "colab"
    kernel.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": command, "display_name": "Colab's versions", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(about), "utf-8")
    return {"JUPYTER_PATH": str(folder)}


def run_cells(folder: Path, environment: dict[str, str], *sources: str) -> list:
    """Run these cells in one of the lane's kernels, in `folder`; their outputs."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    NotebookClient(
        book, kernel_name="colab", timeout=600, resources={"metadata": {"path": str(folder)}}
    ).execute(env=environment)
    return [output for cell in book.cells for output in cell.outputs]


def run(notebook: Path, environment: dict[str, str], for_students: bool = False) -> bool:
    """Run a notebook with nbval in an empty folder; whether everything was as stored."""
    with tempfile.TemporaryDirectory() as folder:
        book = read(notebook)
        if for_students:
            book = student.student_edition(book, notebook.stem, outputs=True)
        nbformat.write(book, Path(folder, notebook.name))
        options = ["--nbval-lax", "--nbval-kernel-name=colab", "--nbval-cell-timeout=1800"]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *options]
        began = time.perf_counter()
        done = subprocess.run([*command, notebook.name], cwd=folder, env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        print(f"{done.stdout}{notebook.name}: {time.perf_counter() - began:.0f} s", flush=True)
        return not done.returncode


def _name(line: str) -> str:
    return re.split(r"==| @ ", line)[0].lower().replace("_", "-")


def _run(command: list, cwd: Path | None = None) -> str:
    """Run a command, which must succeed; its standard output."""
    command = [str(part) for part in command]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="all of them if none is given")
    parser.add_argument("--as-is", type=Path, help="a Python whose environment to use as it is")
    parser.add_argument("--student", action="store_true", help="run the student edition")
    parser.add_argument("--jobs", type=int, default=1, help="how many notebooks at once")
    parser.add_argument("--prepare", action="store_true", help="only make the environment")
    options = parser.parse_args(arguments)
    python, before = prepare() if not options.as_is else (options.as_is, freeze(options.as_is))
    if options.prepare:
        return
    if ours := {"labkit", "equinox", "jaxtyping"} & set(map(_name, before)):
        raise SystemExit(f"{python} has {', '.join(ours)} already, which Colab has not.")
    if added := set(map(_name, freeze(python))) - set(map(_name, before)):
        _run([python, "-m", "pip", "uninstall", "--quiet", "--yes", *added])
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LABKIT_")}
        environment |= publish(scratch / "repository") | write_kernel(scratch / "jupyter", python)
        environment |= {
            "LABKIT_DATASET": "digits", "LABKIT_DATA": str(scratch / "data"),
            "LABKIT_CACHE": str(BUILD / "cache"),  # what one has compiled serves the others
            "PYTHONPATH": "", "TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }  # fmt: skip
        os.environ["JUPYTER_PATH"] = environment["JUPYTER_PATH"]
        shown = run_cells(scratch, environment, stamp.setup("00_start_here"), WIDGETS)
        if WIDGET not in str(shown):
            raise SystemExit(f"plot.live shows no widget: {shown}")
        print("plot.live redraws when a control moves")
        added = additions(before, freeze(python))
        print("the setup cell added", ", ".join(added), flush=True)
        times = stamp.measured()
        paths = sorted(  # the longest first
            [path.resolve() for path in options.notebooks or notebooks()],
            key=lambda path: -times.get(path.stem, {}).get("cpu", {}).get("seconds", 0),
        )
        worker = count()
        with ThreadPoolExecutor(
            options.jobs, initializer=lambda: take_share(next(worker), options.jobs)
        ) as pool:
            passed = list(pool.map(lambda path: run(path, environment, options.student), paths))
    failed = sorted(path.name for path, good in zip(paths, passed, strict=True) if not good)
    if failed:
        raise SystemExit(f"in Colab's versions {', '.join(failed)} failed; see above")


if __name__ == "__main__":
    main()
