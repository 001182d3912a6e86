"""Definitions taken out of a notebook, with what they need and nothing else of it."""

from unittest import mock

import nbformat
import numpy as np
import pytest

from tools import slice as cut


@pytest.fixture
def notebook(tmp_path):
    def write(*sources, tags=()):
        new = [nbformat.v4.new_code_cell(source) for source in sources]
        new[-1].metadata.tags = list(tags)
        path = tmp_path / "notebook.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=new), path)
        return path

    return write


def test_definitions_run_what_a_name_needs_and_nothing_else(notebook):
    path = notebook(
        "import math\nscale = 2.0\nlog = []",
        "raise SystemExit('this is a training')",
        "def area(r):\n    return scale * shape(r)",
        "def shape(r):\n    return math.pi * r**2",
        "scale = 3.0\nunused = scale / 0",
    )
    namespace = cut.definitions(path, "area")
    assert namespace["area"](1.0) == 2.0 * np.pi  # the scale where area was made
    assert "unused" not in namespace and "log" not in namespace


def test_definitions_see_entries_that_are_set_and_can_be_wrapped(notebook):
    path = notebook(
        "def fit(n):\n    return 1 / 0",
        "table, name = {}, 'left over'",
        "for name in ('a', 'b'):\n    table[name] = fit(name)",
        "def area():\n    return 0",
        tags=["solution"],
    )
    seen = []
    wrap = {"fit": lambda fit: seen.append}
    assert cut.definitions(path, "table", wrap=wrap)["table"] == {"a": None, "b": None}
    assert seen == ["a", "b"]
    with pytest.raises(KeyError, match="no 'area'"):
        cut.definitions(path, "area")


@pytest.mark.parametrize(
    "cells",
    [
        ["x = []", "x.append(1)", "x.append(2)"],
        ["x = [1]", "x += [2]"],
        ["x = [0, 2]", "x[0] = 1"],
        ["class x:\n    a = 3", "x.a = 1", "x = [x.a, 2]"],
        ["def x():\n    return x.all", "x.all = [1, 2]", "x = x()"],
        ["x = []", "def fill(n):\n    x.append(n)", "fill(1)\nfill(2)"],
        ["x = []", "def fill(n):\n    x.append(n)", 
         "def both():\n    fill(1)\n    fill(2)", "both()"],
        ["x = []", "def fill(to):\n    to += [1, 2]", "fill(x)"],
        ["x = []", "def add(f):\n    x.append(f())", "@add\ndef one():\n    return 1",
         "@add\ndef two():\n    return 2"],
        ["x = 5", "def make():\n    global x\n    x = [1, 2]", "make()"],
        ["for n in [1]:\n    globals()['y'] = n", "x = [y, 2]"],
        ["x = [1, 2]", "if not x:\n    x = 7"],
        ["a, b = 1, 2\nx = [n for n in (a, b)]", "a = 7"],
        ["from math import *", "x = [ceil(e) - 2, int(pi) - 1]"],
        ["y = 7\ny = 2", "x = [y - 1, y]", "y = 8"],
        ["%time x = [1, 2]"], ["x = %time [1, 2]"], ["%%time\nx = [1, 2]"],
        ["%matplotlib inline\nx = [1, 2]\nx?\n!ls"],
    ],
)  # fmt: skip
def test_what_fills_or_changes_a_name_belongs_to_it(cells):
    found, broken = cut.statements([*cells, "1 / 0", "trained = 1 / 0"], "cell")
    namespace = {"get_ipython": mock.Mock()}
    for i in sorted(cut.needed(found, {"x"}, len(found))):
        exec(found[i].code, namespace)
    assert namespace["x"] == [1, 2] and not broken


def test_imports_are_not_filled_by_what_is_done_with_them():
    cells = ["import time", "time.sleep(1 / 0)", "def x():\n    return time.time()"]
    found, _ = cut.statements(cells, "cell")
    assert cut.needed(found, {"x"}, 3) == {0, 2}
