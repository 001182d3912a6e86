"""The structure of every notebook: anatomy, tags, stored outputs, links, stamps."""

import copy
import json
import re
import statistics
import subprocess
import sys
import tempfile
import tomllib

import nbformat
import pytest

from labkit import check
from tools import ROOT, notebooks, read, stamp
from tools import tags as tags_of

EXPECTED = tomllib.loads((ROOT / "labkit" / "expected.toml").read_text("utf-8"))
PATHS = notebooks()
TAGS = {"setup", "exercise", "check", "solution", "hide-input", "nbval-check-output"}
TAGS |= {"timing", "picture"}
HEADING = re.compile(r"### Exercise (\d+)\.(\d+) — .+ \([★☆]{3}, \d+ min\)")
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def text_of(path):
    return "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")


def test_there_are_notebooks():
    assert [path.stem[:2] for path in PATHS] == [f"{i:02}" for i in range(len(PATHS))] and PATHS


@each
def test_was_executed_from_top_to_bottom_and_all_went_well(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o.text for o in outputs if o.get("name") == "stderr"]
    stored = json.dumps(outputs, ensure_ascii=False)
    assert not re.search(r"/(root|home|tmp|work|Users)/|Warning|✗", stored)


@each
def test_outputs_are_made_from_mnist(path):
    setup = next(c for c in code_cells(path) if "setup" in tags_of(c))
    assert "MNIST (LeCun" in "".join(o.get("text", "") for o in setup.outputs)


@each
def test_is_stamped_with_the_address_the_times_and_the_setup_cell(path):
    notebook = read(path)
    stamped = copy.deepcopy(notebook)
    stamp.stamp_notebook(stamped, path.stem)
    assert stamped == notebook, "run `make stamp`"
    assert [i for i, c in enumerate(notebook.cells) if "setup" in tags_of(c)] == [1]


@each
def test_begins_and_ends_as_every_notebook_does(path):
    head, text = read(path).cells[0].source, text_of(path)
    assert head.startswith(f"# {path.stem[:2]} · ")
    for part in ("**You will**", "**Time**", "*Run all* takes", "**Needs**"):
        assert part in head
    objectives = re.findall(r"^- ", head.split("**You will**")[1].split("**Time**")[0], re.M)
    assert 3 <= len(objectives) <= 5
    for part in ("## What you learned", "**Where next**", "## References"):
        assert part in text
    onward = text.split("**Where next**")[1].split("## References")[0]
    after = PATHS[PATHS.index(path) + 1 :]
    assert not after or f"]({after[0].name})" in onward, "the next notebook is next"
    assert text.count("<details>") == text.count("</details>") >= 3
    assert "```{" not in text and ":::" not in text, "plain Markdown only"
    broken = re.findall(r"[\x00-\x09\x0b-\x1f]|\n(?:Vert|ight|angle|ho)\b", text)
    assert not broken, "a backslash of a formula was taken for an escape"


@each
def test_cells_are_short(path):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(path)]
    assert max(lengths) <= 30
    assert statistics.median(lengths) <= 8
    assert not [line for c in code_cells(path) for line in c.source.splitlines() if len(line) > 100]


@each
def test_tags_and_regression(path):
    cells = code_cells(path)
    assert set().union(*map(tags_of, cells)) <= TAGS
    assert sum("nbval-check-output" in tags_of(cell) for cell in cells) >= 8
    assert sum("picture" in tags_of(cell) for cell in cells) == 1
    for cell in cells:
        if "nbval-check-output" in tags_of(cell):
            assert cell.outputs and "timing" not in tags_of(cell)
            assert all(output.output_type != "display_data" for output in cell.outputs)


@each
def test_exercises_have_four_cells_and_a_check(path):
    cells = read(path).cells
    headings = [i for i, cell in enumerate(cells) if HEADING.search(cell.source)]
    assert len(headings) >= (2 if path.stem.startswith("00") else 3)
    assert sum("exercise" in tags_of(cell) for cell in cells) == len(headings)
    for number, i in enumerate(headings, start=1):
        notebook, exercise = map(int, HEADING.search(cells[i].source).groups())
        assert (notebook, exercise) == (int(path.stem[:2]), number)
        stub, checked, solution = cells[i + 1 : i + 4]
        assert "exercise" in tags_of(stub) and stub.source.rstrip().endswith("...")
        assert tags_of(checked) == {"check", "nbval-check-output"}
        assert {"solution", "hide-input", "nbval-check-output"} <= tags_of(solution)
        name = re.search(r"def (\w+)\(", stub.source)[1]
        call = f"check.exercise_{notebook}_{exercise}("
        assert checked.source == f"{call}{name})"
        assert checked.outputs[0].text.rstrip().endswith("not attempted yet")
        assert f"def {name}_solution(" in solution.source
        assert solution.source.endswith(f"{call}{name}_solution)")
        assert solution.outputs[0].text.startswith(("✓", "the solution passes"))
        judge = getattr(check, f"exercise_{notebook}_{exercise}")
        assert f" — {judge.title} (" in cells[i].source, "run `make stamp`"


@each
def test_what_follows_never_needs_a_solution(path):
    cells = code_cells(path)
    names = set()
    for cell in cells:
        if "solution" in tags_of(cell):
            names |= set(re.findall(r"^def (\w+)\(|^class (\w+)", cell.source, re.M)[0]) - {""}
        else:
            used = {name for name in names if re.search(rf"\b{name}\b", cell.source)}
            assert not used, f"the student edition drops {used}"


@each
def test_pictures_have_words(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                alt = output.metadata["image/png"]["alt"]
                assert len(alt) > 20 or alt.startswith("What you will")
            page = output.get("data", {}).get("text/html", "")
            if "labkit-scrubber" in page:
                assert re.search(r'<img [^>]*alt="[^"]{20,}"', page) and "image/png" in output.data


@each
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", text_of(path)):
        assert (path.parent / target).exists(), target


@each
def test_results_have_expected_ranges(path):
    names = [
        n for c in code_cells(path) for n in re.findall(r'check\.result\(\s*"([^"]+)"', c.source)
    ]
    assert names and set(names) <= set(EXPECTED)
    assert not [name for name in names if "speed" in name], "measured times are printed"


@each
def test_what_is_stored_is_what_a_run_would_say_today(path):
    """Ranges are in a file of their own, and go on changing after a run."""
    text = "".join(o.get("text", "") for cell in code_cells(path) for o in cell.outputs)
    shown = re.findall(r"✓ (\S+/\S+) = [^(]+ \(expected (.+?) on mnist\)", text)
    assert shown
    for name, span in shown:
        low, high = (check._show(end, EXPECTED[name]) for end in EXPECTED[name]["mnist"]["range"])
        assert span == f"{low} to {high}", f"{name}: run `make refresh`"


def test_a_run_time_is_the_same_wherever_it_is_said():
    pages = [line for name in stamp.PAGES for line in (ROOT / name).read_text("utf-8").splitlines()]
    for path in PATHS:
        head, setup, *_ = read(path).cells
        cpu = stamp.measured().get(path.stem, {}).get("cpu")
        if cpu:  # a new notebook may be unmeasured
            assert f"*Run all* takes {cpu['seconds']} s on a {cpu['device']}" in head.source
            assert f"took {cpu['seconds']} s on {cpu['device']}\n" in setup.outputs[0].text
            rows = [line for line in pages if line.startswith(f"| [{path.stem[:2]} · ")]
            assert len(rows) == 3, "README, status page, guide"
            assert all(f"| {cpu['seconds']} s" in row for row in rows), rows


@each
def test_size(path):
    assert path.stat().st_size < 2.5e6


def test_every_expected_range_is_used():
    sources = "\n".join(cell.source for path in PATHS for cell in code_cells(path))
    assert not [name for name in EXPECTED if f'"{name}"' not in sources]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_range_holds_what_was_seen_and_is_not_much_wider(name):
    """The rule is in the head of labkit/expected.toml."""
    for dataset in {"mnist", "digits"} & set(EXPECTED[name]):
        (low, high), seen = (EXPECTED[name][dataset][key] for key in ("range", "seen"))
        assert low <= min(seen) <= max(seen) <= high
        size = max(map(abs, seen))
        beyond = max(3 * (max(seen) - min(seen)), size * (0.2 if len(seen) > 2 else 1))
        beyond = max(beyond, 3) if name.endswith("_units") else beyond
        assert low >= min(seen) - 1.001 * beyond and high <= max(seen) + 1.001 * beyond, dataset


def test_a_busy_machine_does_not_make_nbval_give_up():
    """What a cell printed arrives seven seconds after its end; nbval alone waits five."""
    late = "get_ipython().kernel.iopub_thread.schedule(lambda: __import__('time').sleep(7))"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(late)])
    (ROOT / "_build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "_build") as folder:
        nbformat.write(book, f"{folder}/late.ipynb")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "1 passed" in done.stdout, done.stdout
