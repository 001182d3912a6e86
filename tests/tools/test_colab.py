"""The setup cell where labkit is missing, and the lane that runs the notebooks as Colab does.

The lane itself (`make colab`) makes an environment of its own; here its parts run in this one.
"""

import importlib.metadata
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from tools import ROOT, colab, stamp
from tools.run import take_share

# A notebook's kernel where labkit is not installed, as far as the setup cell can tell.
KERNEL = """\
import sys
sys.path[:] = [path for path in sys.path if path != sys.argv[2]]
sys.meta_path[:] = [finder for finder in sys.meta_path if "labkit" not in str(finder)]
sys.path.append(sys.argv[3])
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("colors", "nocolor" if hasattr(shell, "theme") else "NoColor")
sys.exit(not shell.run_cell(open(sys.argv[1], encoding="utf-8").read()).success)
"""


@pytest.fixture
def student(tmp_path):
    """student(cell, address, target): run a setup cell where labkit is missing and the address
    leads to `target`; returns (whether it went well, what the student sees)."""

    def run(cell, address, target):
        source, site = tmp_path / "cell.py", tmp_path / "site"
        source.write_text(cell, "utf-8")
        site.mkdir(exist_ok=True)
        environment = os.environ | colab.redirect(address, target)
        environment |= {"PIP_TARGET": str(site), "PIP_NO_DEPS": "1", "PIP_RETRIES": "0"}
        environment |= {"LABKIT_DATASET": "digits", "PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
        environment |= {
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_CONFIG_FILE": os.devnull,
        }  # 0 means: none
        done = subprocess.run(
            [sys.executable, "-c", KERNEL, source, ROOT, site], cwd=tmp_path, timeout=120,
            capture_output=True, text=True, env=environment,
        )  # fmt: skip
        return not done.returncode, done.stdout + done.stderr

    return run


def test_an_unpublished_copy_says_so_and_what_to_do(student, tmp_path):
    address = stamp.address()[0]
    if stamp.published(address):
        pytest.skip("this copy is published")
    went_well, seen = student(stamp.setup("00_start_here"), address, (tmp_path / "none").as_uri())
    assert not went_well
    last = seen.strip().splitlines()[-1]
    assert last == f"RuntimeError: {stamp.UNPUBLISHED}"
    assert "make lab" in last and "published" in last


def test_without_a_network_the_cell_says_what_to_do(student, monkeypatch):
    published = "https://github.com/someone/energy-lab"
    monkeypatch.setattr(stamp, "address", lambda: (published, "main"))
    went_well, seen = student(stamp.setup("00_start_here"), published, "http://127.0.0.1:9")
    assert not went_well and "127.0.0.1" in seen, "pip says why"
    assert seen.strip().splitlines()[-1] == f"RuntimeError: {stamp.FAILED}"


def test_labkit_is_installed_once_and_used_without_a_restart(student, tmp_path):
    pytest.importorskip("setuptools", "68", reason="building labkit needs it, or the internet")
    repository = tmp_path / "repository"
    target = colab.publish(repository)["GIT_CONFIG_KEY_0"].split(".", 1)[1].rsplit(".", 1)[0]
    cell, address = stamp.setup("00_start_here"), stamp.address()[0]
    went_well, seen = student(cell, address, target)
    assert went_well, seen
    assert "Run all   took " in seen and (tmp_path / "site" / "labkit").is_dir()
    went_well, seen = student(cell, address, (tmp_path / "none").as_uri())
    assert went_well and "pip" not in seen, "the second time there is nothing to install"


@pytest.mark.parametrize(
    "url", ["https://github.com/your_github_account/x", "https://github.com/a/b"]
)
def test_the_setup_cell_is_short(url, monkeypatch):
    monkeypatch.setattr(stamp, "address", lambda: (url, "main"))
    lines = stamp.setup("04_variational_autoencoder").splitlines()
    assert len(lines) <= 13 and max(map(len, lines)) <= 100
    assert f'"labkit @ git+{url}"' in stamp.setup("00_start_here")
    assert (stamp.UNPUBLISHED in "\n".join(lines)) != stamp.published(url)


def test_a_package_that_moved_fails_the_lane():
    before = ["jax==0.7.2", "numpy==2.1.3"]
    after = [*before, "labkit @ git+https://example.org/a", "Equinox==1"]
    assert colab.additions(before, after) == ["Equinox==1", "labkit @ git+https://example.org/a"]
    with pytest.raises(colab.Moved, match="numpy==2.1.3 became numpy==2.4.0"):
        colab.additions(before, ["jax==0.7.2", "numpy==2.4.0", "labkit==1"])
    with pytest.raises(colab.Moved, match="jax==0.7.2 became nothing"):
        colab.additions(before, ["numpy==2.1.3"])


def test_stand_ins_are_packages_to_pip_and_hold_nothing_else(tmp_path):
    for name, (version, files) in colab.STAND_INS.items():
        made = colab.wheel(tmp_path, name, version, files)
        (found,) = importlib.metadata.distributions(path=[str(made)])
        assert (found.metadata["Name"], found.version) == (name, version)
        assert made.stat().st_size < 1500


def notebook(folder, source, output, tags):
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": tags}, execution_count=1)
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=output)]
    path = folder / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def test_the_lane_fails_where_a_notebook_fails_or_says_something_else(tmp_path, monkeypatch):
    environment = os.environ | colab.write_kernel(tmp_path / "jupyter", Path(sys.executable))
    check = ["nbval-check-output"]
    alone = "import os; print(sorted(os.listdir()))"
    assert colab.run(notebook(tmp_path, alone, "['notebook.ipynb']\n", check), environment)
    assert colab.run(notebook(tmp_path, "print(1)", "2\n", []), environment), "an output not tagged"
    assert not colab.run(notebook(tmp_path, "print(1)", "2\n", check), environment)
    assert not colab.run(notebook(tmp_path, "raise ValueError", "", []), environment)
    monkeypatch.setenv("JUPYTER_PATH", environment["JUPYTER_PATH"])
    colab.run_widgets(environment)


def test_the_published_copy_is_this_working_tree(tmp_path):
    environment = os.environ | colab.publish(tmp_path / "repository")
    address = stamp.address()[0]
    command = ["git", "clone", "--quiet", address, tmp_path / "clone"]
    subprocess.run(command, env=environment, check=True, timeout=60)
    for name in ("pyproject.toml", "labkit/session.py", "labkit/pictures/00_start_here.png"):
        assert (tmp_path / "clone" / name).read_bytes() == (ROOT / name).read_bytes()
    assert not (tmp_path / "clone" / ".venv").exists()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot do it")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_side_by_side_share_the_cores(workers):
    mine = os.sched_getaffinity(0)
    show = "import os; print(*os.sched_getaffinity(0))"

    def child(worker):
        take_share(worker, workers)
        shown = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True)
        return {int(core) for core in shown.stdout.split()}

    shares = []
    for worker in range(workers):
        with ThreadPoolExecutor(1) as thread:  # so that this one keeps its cores
            shares.append(thread.submit(child, worker).result())
    assert set.union(*shares) == mine and all(shares)
    if workers <= len(mine):
        assert sum(map(len, shares)) == len(mine), "no core is given twice"
    assert os.sched_getaffinity(0) == mine
