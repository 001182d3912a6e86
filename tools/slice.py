"""Take definitions out of a notebook: run what they need, and nothing else of it.

Names are followed back to the statement that made each one, to those that filled it since
(`table[k] = v`, `parts.append(f)`, a function that does so), and to the names that these need. What
is found runs in the notebook's order: no training, unless what you ask for is made from one.
"""

import __future__

import ast
import dis
import linecache
import re
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

LEFT_OUT = {"setup", "exercise", "check", "solution"}
ANY_NAME = {"globals", "exec", "get_ipython"}  # who calls these may make any name
MAYBE = (ast.If, ast.For, ast.While, ast.Try, ast.Match)  # may leave a name as it was
DEFINED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Import, ast.ImportFrom)
LOADS = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
TIMED = re.compile(r"(?m)(^|=)([ \t]*)(?:%%capture.*|%%?time\b[ \t]*)")


class Statement(NamedTuple):
    """A statement at the top level of a cell, and the names that it makes and needs.

    sets: names of which it sets an entry or attribute. fills: names that it may fill, by a method
    or function whose result it drops, or by a function of the notebook; "*" if that may be any.
    """

    node: ast.stmt
    code: types.CodeType
    cell: int
    makes: set[str]
    needs: set[str]
    sets: set[str]
    fills: set[str]


def definitions(path: Path, *names: str, wrap: dict[str, Callable] | None = None) -> dict[str, Any]:
    """The namespace in which `names` of our notebook at `path` are defined, with what they need.

    A name made several times has its last meaning, and finds the others as they are there. `wrap`
    puts functions around others as soon as they are made: with `wrap={"fit": lambda fit: record}`
    the notebook calls `record` for `fit`. The setup cell and the cells of exercises are left out.
    Raises KeyError for a name that the notebook does not make.
    """
    from tools import read, tags  # not for the grader's sandbox, which holds this file alone

    cells = [c for c in read(path).cells if c.cell_type == "code" and not LEFT_OUT & tags(c)]
    found, broken = statements([cell.source for cell in cells], path.stem)
    if broken:
        raise broken[0][1]
    chosen = set()
    for name in names:
        if not any(name in s.makes for s in found):
            raise KeyError(f"{path.name} makes no {name!r} at the top level of a cell")
        last = max(i for i, s in enumerate(found) if name in s.makes | s.sets)
        chosen |= needed(found, {name}, last + 1)
    namespace: dict[str, Any] = {"__name__": path.stem}
    for i in sorted(chosen):
        exec(found[i].code, namespace)
        for name in found[i].makes & set(wrap or ()):
            namespace[name] = wrap[name](namespace[name])
    return namespace


def statements(cells: Iterable[str], title: str) -> tuple[list[Statement], list]:
    """The statements of all cells that can be compiled, and (source, error) of the others."""
    found, broken, fills, flags = [], [], {}, 0
    for number, source in enumerate(cells):
        file, new = f"<{title} {number}>", []
        try:
            for node in _parsed(source).body:
                if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                    flags |= getattr(__future__, node.names[0].name).compiler_flag
                code = compile(ast.Module([node], []), file, "exec", flags, dont_inherit=True)
                new.append(Statement(node, code, number, *_names(node, code, fills)))
            linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
            found += new
        except (SyntaxError, ValueError, AttributeError, RecursionError, MemoryError) as error:
            broken.append((source, error))
    return found, broken


def needed(found: list[Statement], names: set[str], position: int) -> set[int]:
    """Where all is made that `names` mean to code that runs just before statement `position`."""
    chosen, seen = {i for i, s in enumerate(found[:position]) if "*" in s.fills}, set()
    waiting = [(name, position) for name in names]
    waiting += [(name, i) for i in chosen for name in found[i].needs]
    while waiting:
        name, place = request = waiting.pop()
        if request not in seen:
            seen.add(request)
            for i in _makers(found, name, place):
                chosen.add(i)  # what it needs: as it runs, and as it is called from that place
                waiting += [(other, at) for other in found[i].needs for at in (i, place)]
    return chosen


def _makers(found: list[Statement], name: str, place: int) -> Iterator[int]:
    """Where what `name` means just before `place` is made, and filled until there."""
    makers = [i for i, s in enumerate(found) if name in s.makes]
    written = [i for i in makers if not is_stub(found[i])] or makers
    start, fillable = 0, True
    for i in reversed([i for i in written if i < place] or written[:1]):  # or made after its use
        yield i
        if not isinstance(found[i].node, MAYBE):
            start, fillable = i + 1, not isinstance(found[i].node, DEFINED)
            break
    for i in range(start, place):
        if name in found[i].sets or (fillable and name in found[i].fills):
            yield i


def is_stub(statement: Statement) -> bool:
    """Whether this is a function of nothing but a docstring, `...` or `pass`."""
    body = statement.node.body if isinstance(statement.node, ast.FunctionDef) else [statement.node]
    return all(ast.dump(p).startswith(("Pass(", "Expr(value=Constant(")) for p in body)


def _parsed(source: str) -> ast.Module:
    """A cell's code; magics and shell commands as IPython writes them, `%time` left out."""
    try:
        return ast.parse(source)
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager

        return ast.parse(TransformerManager().transform_cell(TIMED.sub(r"\1\2", source)))


def _names(node: ast.stmt, code: types.CodeType, functions: dict[str, set[str]]) -> tuple:
    """What a statement makes, needs, sets and fills; `functions` gains what its calls fill."""
    uses, inner = list(dis.get_instructions(code)), list(_inner(code))
    first = {i.argval: i.opname for i in reversed(uses) if i.opname in ("LOAD_NAME", "STORE_NAME")}
    makes = {i.argval for i in uses if i.opname == "STORE_NAME"}
    needs = {name for name, use in first.items() if use == "LOAD_NAME"}
    called = set().union(*(functions.get(name, ()) for name in needs))
    needs |= {i.argval for i in inner if i.opname in LOADS}
    sets, fills = set(), {"*"} if needs & ANY_NAME else set()
    for part in ast.walk(node):
        if isinstance(part, ast.Subscript | ast.Attribute) and not isinstance(part.ctx, ast.Load):
            sets.add(_root(part))
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
            fills |= {a.id for a in part.value.args if isinstance(a, ast.Name)}
            fills |= {_root(part.value.func)} - {getattr(part.value.func, "id", "")}
        elif isinstance(part, ast.alias) and part.name == "*":
            fills.add("*")
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return makes, needs, sets, fills.union(*(functions.get(name, ()) for name in needs))
    own = (sets | fills) & (needs | {"*"}) | {i.argval for i in inner if i.opname == "STORE_GLOBAL"}
    functions[node.name] = own.union(*(functions.get(name, ()) for name in needs))
    return makes, needs, set(), called


def _inner(code: types.CodeType) -> Iterator[dis.Instruction]:
    """The instructions of functions and classes within code, at any depth."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from [*dis.get_instructions(constant), *_inner(constant)]


def _root(node: ast.AST) -> str:
    """The name `d` that `d`, `d[k].a` and `d.get(k)[0]` begin with, or none."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""
