"""Take definitions out of a notebook: run what they need, and nothing else of it.

A measurement or a check of the course's code should use the notebook's own functions, not a copy.
This follows names: a definition needs the names that its code reads, those need others, and only
the statements that make these are run, in the notebook's order. No training runs unless a name
that you ask for is made from its result.
"""

import ast
import dis
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

LEFT_OUT = {"setup", "exercise", "check", "solution"}


class Statement(NamedTuple):
    """One statement at the top level of a cell, and the names that it deals with.

    changes: names of which it sets an entry or an attribute, as in `table[name] = ...`.
    """

    code: types.CodeType
    makes: set[str]
    changes: set[str]
    needs: set[str]


def definitions(
    path: Path, *names: str, wrap: dict[str, Callable[[Any], Any]] | None = None
) -> dict[str, Any]:
    """The namespace in which `names` of the notebook at `path` are defined, with what they need.

    A name made several times has its last meaning. `wrap` puts functions around others as soon as
    they are made: with `wrap={"fit": lambda fit: record}` the notebook calls `record` for `fit`.
    Cells of exercises, their solutions and checks, and the setup cell are left out. Calls that
    change an object without an assignment (`list.append`) are not seen.

    Raises KeyError for a name that the notebook does not make.
    """
    statements = list(_statements(path))
    needed: set[int] = set()
    open_names = [(name, len(statements)) for name in names]
    while open_names:
        name, position = open_names.pop()
        found = set(_makers(statements, name, position))
        if not found and name in names:
            raise KeyError(f"{path.name} makes no {name!r} at the top level of a cell")
        for i in found - needed:
            open_names += [(other, i) for other in statements[i].needs]
        needed |= found
    namespace: dict[str, Any] = {"__name__": path.stem}
    for i in sorted(needed):
        exec(statements[i].code, namespace)
        for name in statements[i].makes & set(wrap or ()):
            namespace[name] = wrap[name](namespace[name])
    return namespace


def _makers(statements: list[Statement], name: str, position: int) -> Iterator[int]:
    """Where what `name` means at `position` is made, and changed until there."""
    makers = [i for i, statement in enumerate(statements) if name in statement.makes]
    if not makers:
        return  # a builtin
    before = [i for i in makers if i < position]
    maker = before[-1] if before else makers[0]  # a function may use what is made after it
    yield maker
    yield from (i for i in range(maker + 1, position) if name in statements[i].changes)


def _statements(path: Path) -> Iterator[Statement]:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code" or LEFT_OUT & set(cell.metadata.get("tags", [])):
            continue
        for node in ast.parse(cell.source).body:
            code = compile(ast.Module([node], type_ignores=[]), path.name, "exec")
            first_use: dict[str, str] = {}
            for instruction in dis.get_instructions(code):
                if instruction.opname in ("LOAD_NAME", "STORE_NAME"):
                    first_use.setdefault(instruction.argval, instruction.opname)
            makes = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_NAME"}
            own = {name for name, use in first_use.items() if use == "STORE_NAME"}
            changes = set() if isinstance(node, ast.FunctionDef | ast.ClassDef) else _changed(node)
            yield Statement(code, makes, changes, set(_read(code)) - own)


def _read(code: types.CodeType) -> Iterator[str]:
    """The global names that code reads, in functions and classes within it as well."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _read(constant)


def _changed(node: ast.AST) -> set[str]:
    targets = [
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Subscript | ast.Attribute) and isinstance(part.ctx, ast.Store)
    ]
    return {target.id for target in targets if isinstance(target, ast.Name)}
