"""The pages that tools write: the status page and the references page."""

import datetime

import nbformat
import pytest

from tools import ROOT, references, status

BOTH = pytest.mark.parametrize("tool", [status, references], ids=["status", "references"])


@BOTH
def test_the_page_is_up_to_date(tool):
    text = (ROOT / tool.PAGE).read_text("utf-8")
    assert tool.page(text) == text, "run `make stamp`"


@BOTH
def test_a_page_without_its_markers_is_refused(tool):
    with pytest.raises(ValueError, match=f"{tool.PAGE} must have <!-- "):
        tool.page("# A page\n")


def test_the_status_page_keeps_what_others_write():
    text = (ROOT / status.PAGE).read_text("utf-8")
    bench = "<!-- bench -->\n## Speed\n\nfast\n<!-- /bench -->"
    start, end = text.index("<!-- bench -->"), text.index("<!-- /bench -->")
    text = text[:start] + bench + text[end + len("<!-- /bench -->") :]
    assert status.page(text) == text


def test_the_status_table_says_what_is_known_and_no_more():
    day = datetime.date(2026, 1, 2)
    full = {"seconds": 7, "device": "4-core CPU", "memory": 2.14, "dataset": "MNIST", "date": day}
    gpu = {"seconds": 3, "device": "a GPU", "versions": "jax 1"}
    times = {"00_a": {"cpu": full | {"versions": "jax 1"}, "gpu": gpu, "sections": {"Setup": 1.0}}}
    times["01_b"] = {"cpu": {"seconds": 9, "device": "4-core CPU"}}
    titles = {"00_a": "00 · A", "01_b": "01 · B", "02_c": "02 · C"}
    assert status.table(times, titles).replace("\N{NO-BREAK SPACE}", " ").splitlines()[2:] == [
        "| [00 · A](00_a.ipynb) | 7 s | 3 s | 2.1 GiB | MNIST | 2026-01-02 |",
        "| [01 · B](01_b.ipynb) | 9 s | – | – | – | – |",
        "| [02 · C](02_c.ipynb) | – | – | – | – | – |",
    ]
    assert status.conditions(times).splitlines() == [
        "- 4-core CPU (notebooks 00): jax 1",
        "- a GPU (notebooks 00): jax 1",
        "- 4-core CPU (notebooks 01): versions not recorded",
    ]


def test_a_work_is_listed_once_with_every_notebook_that_cites_it(tmp_path):
    (tmp_path / "notebooks").mkdir()
    common = "- B. Öhm et al., *Two*. [arXiv:2](https://arxiv.org/abs/2)"
    cells = {
        "00_a": f"before\n- not here\n## References\n\n{common}\n- *A script*, without a link.",
        "01_b": f"## References\n- C. D. Abe, *One*, 1999. [doi:1](https://doi.org/1)\n{common}\n"
        "- Symbols: [Notation](notation.md).\n- Z. Pan, *Three*. [arXiv:3](https://arxiv.org/abs/3)",
    }
    for name, text in cells.items():
        cell = nbformat.v4.new_markdown_cell(text)
        nbformat.write(
            nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebooks" / f"{name}.ipynb"
        )
    assert references.cited(tmp_path) == [
        ("*A script*, without a link", ["00_a"]),
        ("C. D. Abe, *One*, 1999. [doi:1](https://doi.org/1)", ["01_b"]),
        (common[2:], ["00_a", "01_b"]),
        ("Z. Pan, *Three*. [arXiv:3](https://arxiv.org/abs/3)", ["01_b"]),
    ]


def test_every_reference_that_has_one_leads_to_the_work():
    for work, _ in references.cited():
        for link in references.LINK.findall(work):
            assert link.startswith("https://"), work
