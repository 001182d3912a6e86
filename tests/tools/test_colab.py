"""The setup cell where labkit is missing, and the parts of the lane that imitates Colab."""

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tools import ROOT, colab, run, stamp, student

SETUP = stamp.setup("00_start_here")
DIGITS = os.environ | {"LABKIT_DATASET": "digits", "PYTHONPATH": ""}
not_on_windows = pytest.mark.skipif(os.name == "nt", reason="needs links to what is installed")


@pytest.fixture
def bare(tmp_path):
    """bare(cell, folder, **variables): run a cell in `folder`, in an environment with all that is
    installed here but labkit, where pip can reach nothing that the variables do not name."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    site = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", site], text=True).strip())
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("labkit", "__editable__")):
            (site / path.name).symlink_to(path)
    alone = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_CONFIG_FILE": os.devnull}
    alone["PIP_QUIET"] = "1"
    environment = DIGITS | alone | colab.write_kernel(tmp_path / "jupyter", python)
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"

    def run(cell, folder, **variables):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JUPYTER_PATH", environment["JUPYTER_PATH"])
            return str(colab.run_cells(folder, environment | variables, cell))

    run.environment, run.python = environment, python
    return run


@not_on_windows
def test_the_folder_handed_out_works_without_github(bare, tmp_path):
    """The README's first command, then the setup cell without it: both take the wheel."""
    student.main([str(tmp_path / "stick")])
    folder = (tmp_path / "stick").rename(tmp_path / "a stick, copied")
    readme = (folder / "README.md").read_text("utf-8")
    install, start = re.search(r"^```\n(.*?)\n```", readme, re.M | re.S)[1].splitlines()
    assert start == "jupyter lab"

    def run(command):
        whole = f'"{bare.python}" {command}'
        return subprocess.check_output(whole, shell=True, cwd=folder, env=bare.environment)

    run(f"-m {install}")
    assert b"bare" in run('-c "import labkit; print(labkit.__file__)"')
    run("-m pip uninstall --yes labkit")
    notebook = nbformat.read(folder / "00_start_here.ipynb", as_version=4)
    assert notebook.cells[1].source == SETUP
    assert "Run all   took " in bare(SETUP, folder)


@not_on_windows
def test_labkit_is_installed_from_its_tag_once_and_used_without_a_restart(bare, tmp_path):
    pytest.importorskip("setuptools", "68", reason="building labkit needs it, or the internet")
    published = colab.publish(tmp_path / "repository")
    newer = ["git", "-C", tmp_path / "repository", "rm", "-rq", "labkit"]
    subprocess.run(newer, check=True)  # what is on the branch by now does not matter
    assert "Run all   took " in bare(SETUP, tmp_path, **published)
    gone = colab.redirect(stamp.address()[0], (tmp_path / "none").as_uri())
    assert "pip" not in bare(SETUP, tmp_path, **gone), "the second time nothing is installed"


@not_on_windows
def test_without_a_network_the_cell_says_what_to_do(bare, tmp_path):
    nowhere = colab.redirect(stamp.address()[0], "http://127.0.0.1:9")
    with pytest.raises(CellExecutionError, match="Check the network and run") as failed:
        bare(SETUP, tmp_path, **nowhere)
    assert "127.0.0.1" in str(failed.value), "pip says why"


def test_the_setup_cell_is_short_and_names_its_version():
    lines = SETUP.splitlines()
    assert len(lines) <= 17 and max(map(len, lines)) <= 88, "no line scrolls on the website"
    assert f"@v{stamp.words()['version']}" in SETUP


def test_a_package_that_moved_fails_the_lane():
    before = ["jax==0.7.2", "numpy==2.1.3"]
    after = [*before, "labkit @ git+https://example.org/a", "Equinox==1"]
    assert colab.additions(before, after) == ["Equinox==1", "labkit @ git+https://example.org/a"]
    with pytest.raises(SystemExit, match="numpy==2.1.3 became numpy==2.4.0"):
        colab.additions(before, ["jax==0.7.2", "numpy==2.4.0", "labkit==1"])
    with pytest.raises(SystemExit, match="jax==0.7.2 became nothing"):
        colab.additions(before, ["numpy==2.1.3"])


def test_stand_ins_are_packages_to_pip_and_hold_nothing_else(tmp_path):
    for line in colab.STAND_INS:
        made = colab.stand_in(tmp_path, *line.split("=="))
        (found,) = importlib.metadata.distributions(path=[str(made)])
        assert f"{found.metadata['Name']}=={found.version}" == line
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
    assert not colab.run(notebook(tmp_path, "print(1)", "2\n", check), environment)
    assert not colab.run(notebook(tmp_path, "raise ValueError", "", []), environment)
    monkeypatch.setenv("JUPYTER_PATH", environment["JUPYTER_PATH"])
    controls = colab.WIDGETS.replace("import google.colab", "")
    shown = colab.run_cells(tmp_path, environment | {"PYTHONPATH": str(ROOT)}, controls)
    assert colab.WIDGET in str(shown)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot do it")
def test_workers_side_by_side_share_the_cores():
    mine = os.sched_getaffinity(0)
    show = "import os; print(*os.sched_getaffinity(0))"

    def child(worker):
        run.take_share(worker, 2)
        return set(map(int, subprocess.check_output([sys.executable, "-c", show]).split()))

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:  # this thread keeps its own
        shares = one.submit(child, 0).result(), other.submit(child, 1).result()
    assert set.union(*shares) == mine == os.sched_getaffinity(0) and all(shares)
    assert len(mine) == 1 or sum(map(len, shares)) == len(mine), "no core is given twice"
