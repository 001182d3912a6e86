"""tools/plan.py: the tables of the lecturer's guide hold what was measured, and add up."""

import nbformat
import pytest

from tools import ROOT, plan

TIMES = """
[01_a.cpu]
seconds = 40
device = "2-core CPU"
memory = 1.25
[01_a.sections]
Setup = 3.0
"1 One" = 30.4
[02_b.cpu]
seconds = 7
device = "2-core CPU"
[02_b.gpu]
seconds = 5
device = "some GPU"
"""


@pytest.fixture
def root(tmp_path):
    for folder in ("labkit", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "labkit" / "times.toml").write_text(TIMES, "utf-8")
    texts = [
        "# 01 · A",
        "## 1 One\n\n### Exercise 1.1 — First (★☆☆, 10 min)",
        "more\n\n## 2 Two\n\ntext",
        "### Exercise 1.2 — Second (★★☆, 15 min)",
        "## Questions\n\n### Exercise 9.9 — Not in a section (★★☆, 15 min)",
    ]
    cells = [nbformat.v4.new_markdown_cell(text) for text in texts]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "01_a.ipynb")
    return tmp_path


def test_a_plan_names_sections_exercises_and_what_was_measured(root):
    text = "before\n<!-- plan 01_a 1=20 2=0 -->\nold\n<!-- /plan -->\nafter"
    stamped = plan.stamp_guide(text, root)
    assert stamped.startswith("before\n<!-- plan 01_a 1=20 2=0 -->\n| Section")
    assert "| 1 One | 20 | 1.1 (10 min) | 30 s |" in stamped
    assert "| 2 Two | at home | 1.2 (15 min) | not measured |" in stamped
    assert "| **in all** | **20** |" in stamped and "old" not in stamped and "9.9" not in stamped
    assert plan.stamp_guide(stamped, root) == stamped


@pytest.mark.parametrize("minutes", ["1=20", "1=20 2=3 3=4", "1=100 2=6"])
def test_a_plan_that_misses_a_section_or_overruns_is_refused(root, minutes):
    with pytest.raises(ValueError, match="at most 105 in all"):
        plan.plan(root, "01_a", minutes)


def test_machines_says_what_was_measured_and_what_was_not(root):
    table = plan.machines(root)
    assert "| 01 | 40 s on a 2-core CPU | 1.2 GiB | section 1 One: 30 s |" in table
    assert "| 02 | 7 s on a 2-core CPU, 5 s on some GPU | not measured | not measured |" in table


def test_the_guide_is_stamped():
    guide = ROOT / "notebooks" / "lecturers_guide.md"
    text = guide.read_text("utf-8")
    assert plan.stamp_guide(text) == text, "run `make stamp`"
    labs = [path.stem for path in sorted((ROOT / "notebooks").glob("0[1-5]*.ipynb"))]
    assert [found[1] for found in plan.PLAN.finditer(text)] == labs
