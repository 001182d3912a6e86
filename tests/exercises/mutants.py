"""Answers made from the notebooks' own solutions: rewritten ones, and ones with a fault."""

import ast
import copy
import dis
import functools
import types
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tools import ROOT, notebooks, read, slice, tags

JAX = {"jax": jax, "jnp": jnp}
Made = Iterator[tuple[str, ast.AST]]


@functools.cache
def solutions() -> dict[str, tuple[ast.FunctionDef, dict]]:
    """Each exercise's solution by its number: its code, and the names that it uses."""
    found = {}
    for path in notebooks(ROOT):
        trees, needed = {}, set()
        code = [cell for cell in read(path).cells if cell.cell_type == "code"]
        for cell in code:
            if "solution" in tags(cell):
                tree = ast.parse(cell.source)
                number = tree.body[-1].value.func.attr.removeprefix("exercise_").replace("_", ".")
                trees[number] = tree.body[0]
                needed |= set(_globals(compile(ast.Module(tree.body[:1], []), "", "exec")))
        cells = [cell.source for cell in code if not slice.LEFT_OUT & tags(cell)]
        made = {name for s in slice.statements(cells, path.stem)[0] for name in s.makes}
        namespace = slice.definitions(path, *(needed & made)) | JAX
        found |= {number: (tree, namespace) for number, tree in trees.items()}
    return found


def _globals(code: types.CodeType) -> Iterator[str]:
    yield from (i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL")
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant)


def build(tree: ast.FunctionDef, namespace: dict) -> Callable:
    names = dict(namespace)
    module = ast.fix_missing_locations(ast.Module([tree], []))
    exec(compile(module, "solution", "exec"), names)
    return names[tree.name]


def _replaced(tree: ast.FunctionDef, alternatives: Callable[[ast.AST], Made]) -> Made:
    """The function with one node replaced, for every alternative of every node."""
    tree = copy.deepcopy(tree)
    tree.returns, nodes = None, [node for statement in tree.body for node in ast.walk(statement)]
    for i, node in enumerate(nodes):
        node.place = i
    for i, node in enumerate(nodes):
        for label, new in alternatives(node):
            replaced = _Replace(i, new).visit(copy.deepcopy(tree))
            yield f"{label} at {ast.unparse(node)}"[:70], replaced


class _Replace(ast.NodeTransformer):
    def __init__(self, place: int, new: ast.AST) -> None:
        self.place, self.new = place, new

    def visit(self, node):
        here = getattr(node, "place", None) == self.place
        return self.new if here else self.generic_visit(node)


def _swapped(node: ast.BinOp) -> ast.BinOp:
    return ast.BinOp(node.right, node.op, node.left)


def _same(node: ast.AST) -> Made:
    """Other ways to write what a node says."""
    if isinstance(node, ast.BinOp):
        left, op, right = node.left, node.op, node.right
        if isinstance(op, ast.Add | ast.Mult):
            yield "commuted", _swapped(node)
        if isinstance(op, ast.Sub):
            yield "minus one times", ast.BinOp(left, ast.Add(), ast.BinOp(
                ast.Constant(-1), ast.Mult(), right))  # fmt: skip
            yield "negated", ast.UnaryOp(ast.USub(), ast.BinOp(right, op, left))
        if isinstance(op, ast.Div):
            yield (
                "times one over",
                ast.BinOp(left, ast.Mult(), ast.BinOp(ast.Constant(1), op, right)),
            )
        if isinstance(op, ast.Pow):
            yield "multiplied out", ast.BinOp(left, ast.Mult(), left)
        if isinstance(op, ast.Mult) and isinstance(left, ast.Constant):
            yield "divided", ast.BinOp(right, ast.Div(), ast.Constant(1 / left.value))
    if isinstance(node, ast.ListComp):
        yield (
            "a generator",
            ast.Call(
                ast.Name("list", ast.Load()), [ast.GeneratorExp(node.elt, node.generators)], []
            ),
        )
    if isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Load):
        yield "a list", ast.List(node.elts, node.ctx)


def _parsed(source: str, **parts: ast.AST) -> ast.AST:
    """An expression in which some names stand for parts of a solution."""

    class Filled(ast.NodeTransformer):
        def visit_Name(self, node):  # noqa: N802
            return parts.get(node.id, node)

    return Filled().visit(ast.parse(source, mode="eval").body)


def _called(node: ast.AST) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", "")) if _is_call(node) else ""


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and bool(node.args) and not node.keywords


FORMS = {
    "mean": ("jnp.sum(a) / jnp.size(a)", "jnp.average(a)", "(a).mean()", "np.mean(a)"),
    "logsumexp": ("jnp.max(a) + jnp.log(jnp.sum(jnp.exp(a - jnp.max(a))))",
                  "jnp.logaddexp.reduce(a)"),
    "where": ("jnp.where(jnp.logical_not(a), c, b)",),
}  # fmt: skip


def _longer(node: ast.AST) -> Made:
    """Other ways to write what a node says, for solutions which are short."""
    if isinstance(node, ast.BinOp | ast.Call):
        yield "a function of its own", _parsed("(lambda: a)()", a=node)
        yield "compiled", _parsed("jax.jit(lambda: a)()", a=node)
    if _is_call(node):
        parts = dict(zip("abc", node.args))
        yield from ((form, _parsed(form, **parts)) for form in FORMS.get(_called(node), ()))
        if _called(node.func) == "vmap":
            for loop in ("jnp.stack([f(part) for part in a])", "jnp.array([*map(f, a)])",
                         "jax.lax.map(f, a)"):  # fmt: skip
                yield loop, _parsed(loop, f=node.func.args[0], a=node.args[0])


def _as(kind: type) -> Callable:
    return lambda value: kind(value) if isinstance(value, list | tuple) else value


def right(tree: ast.FunctionDef, namespace: dict) -> Iterator[tuple[str, Callable]]:
    """Answers which say the same in another way."""
    solution = build(tree, namespace)
    names = [argument.arg for argument in tree.args.args]
    arrays = functools.partial(jax.tree.map, lambda a: np.array(a) if _is_array(a) else a)

    def out(change):
        return lambda *a, **k: jax.tree.map(change, solution(*a, **k))

    def scribble(*args, **kwargs):
        value = solution(*args, **kwargs)
        for argument in args:
            if isinstance(argument, list):
                argument[0] = argument[0] * 0 if _is_array(argument[0]) else None
        return value

    def filled(*args, **kwargs):
        """What came back is written into the caller's own lists, where it fits."""
        value = solution(*args, **kwargs)
        for argument in args:
            for part in (value, *value) if isinstance(value, list | tuple) else ():
                if isinstance(argument, list) and isinstance(part, list):
                    argument[: len(part)] = part
        return value

    yield "itself", solution
    yield "partial", functools.partial(solution)
    yield "by keyword", lambda *a, **k: solution(**dict(zip(names, a, strict=True)), **k)
    yield "a list", lambda *a, **k: _as(list)(solution(*a, **k))
    yield "a tuple", lambda *a, **k: _as(tuple)(solution(*a, **k))
    yield "NumPy comes back", out(np.asarray)
    yield "float64 comes back", out(lambda v: np.asarray(v, float))
    yield "scalars as Python's", out(lambda v: v.item() if np.ndim(v) == 0 < np.size(v) else v)
    yield "scribbles over its lists", scribble
    yield "in place", filled
    yield "copies first", lambda *a, **k: solution(*map(copy.copy, a), **k)
    yield "NumPy's functions", build(tree, namespace | {"jnp": np})
    yield "NumPy arguments", lambda *a, **k: solution(*arrays(a), **k)
    yield "in halves", out(lambda v: v if np.asarray(v).dtype.kind in "ib" else v / 2 + v / 2)
    own = sorted({n.id for n in ast.walk(tree)
                  if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)})  # fmt: skip
    for name in own:
        renamed = copy.deepcopy(tree)
        for node in ast.walk(renamed):
            if isinstance(node, ast.Name) and node.id == name and name not in names:
                node.id = f"{name}_"
        yield f"{name} renamed", build(renamed, namespace)
    for label, rewritten in _enough(6, tree, _same, _longer):
        yield label, build(rewritten, namespace | {"np": np})


def _enough(count: int, tree: ast.FunctionDef, common: Callable, rare: Callable) -> list:
    """What the common changes make of a solution; if they are fewer, the rare ones as well."""
    made = list(_replaced(tree, common))
    return made if len(made) >= count else made + list(_replaced(tree, rare))


def _is_array(value) -> bool:
    return hasattr(value, "dtype") and not jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


OTHERS = {"sum": ("mean", "max"), "mean": ("sum", "max"), "max": ("min", "mean"), "exp": ("expm1",),
          "minimum": ("maximum",), "sign": ("abs",), "tanh": ("sin",), "hessian": ("jacobian",),
          "where": ()}  # fmt: skip
FUNCTIONS = {"exp", "log", "tanh", "abs", "sign", "sqrt", "vmap", "len"}


def _faults(node: ast.AST, parameters: list[str]) -> Made:
    """One typical slip at a node."""
    if isinstance(node, ast.BinOp):
        left, op, right = node.left, node.op, node.right
        for kind, other in ((ast.Add, ast.Sub), (ast.Sub, ast.Add), (ast.Mult, ast.Div),
                            (ast.Div, ast.Mult), (ast.BitAnd, ast.BitOr)):  # fmt: skip
            if isinstance(op, kind):
                yield other.__name__, ast.BinOp(left, other(), right)
                yield "the left only", left
                yield "the right only", right
        if isinstance(op, ast.Sub | ast.MatMult):
            yield "exchanged", _swapped(node)
        if isinstance(op, ast.Pow):
            yield "no power", left
            yield "another power", ast.BinOp(left, op, ast.Constant(3))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "no minus", node.operand
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        c = node.value
        steps = (c + 1, c - 1) if isinstance(c, int) else (2 * c, c / 2, -c)
        yield from ((f"{other}", ast.Constant(other)) for other in steps)
    if isinstance(node, ast.Attribute) and node.attr == "T":
        yield "no transpose", node.value
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        for other in OTHERS.get(name, ()):
            if isinstance(node.func, ast.Attribute):
                func = ast.Attribute(node.func.value, other, ast.Load())
                yield other, ast.Call(func, node.args, node.keywords)
        if name in FUNCTIONS and len(node.args) == 1:
            yield f"no {name}", node.args[0]
        if name == "range":
            for off in (1, -1):
                more = ast.BinOp(node.args[-1], ast.Add(), ast.Constant(off))
                yield "off by one", ast.Call(node.func, [*node.args[:-1], more], [])
        for i in range(len(node.keywords)):
            kept = node.keywords[:i] + node.keywords[i + 1 :]
            yield "an option dropped", ast.Call(node.func, node.args, kept)
        if len(node.args) > 1 and not any(isinstance(a, ast.Starred) for a in node.args):
            exchanged = [*node.args[1::-1], *node.args[2:]]
            yield "exchanged", ast.Call(node.func, exchanged, node.keywords)
    if isinstance(node, ast.Compare):
        for kind, other in (
            (ast.Gt, ast.Lt),
            (ast.GtE, ast.Lt),
            (ast.Eq, ast.NotEq),
            (ast.Gt, ast.GtE),
        ):
            if isinstance(node.ops[0], kind):
                yield other.__name__, ast.Compare(node.left, [other()], node.comparators)
    if isinstance(node, ast.Tuple | ast.List) and isinstance(node.ctx, ast.Load):
        if len(node.elts) > 1:
            yield "another order", type(node)(node.elts[::-1], node.ctx)
        for i, element in enumerate(node.elts):
            kept = node.elts[:i] + node.elts[i + 1 :]
            yield f"without {ast.unparse(element)}", type(node)(kept, node.ctx)
    if isinstance(node, ast.Name) and node.id in parameters and isinstance(node.ctx, ast.Load):
        i = parameters.index(node.id)
        if len(parameters) > 1:
            yield parameters[i - 1], ast.Name(parameters[i - 1], node.ctx)


REDUCED = {"mean": ("min", "median", "prod", "std"), "logsumexp": ("max", "sum", "mean", "min")}


def _more_faults(node: ast.AST, parameters: list[str]) -> Made:
    """Another slip at a node, for solutions which offer few places for one."""
    if isinstance(node, ast.Name) and node.id in parameters and isinstance(node.ctx, ast.Load):
        for form in ("a[1:]", "a[:-1]", "a[0]", "2 * a"):
            yield form, _parsed(form, a=node)
    for other in REDUCED.get(_called(node), ()):
        yield other, _parsed(f"jnp.{other}(a)", a=node.args[0])
    if isinstance(node, ast.BinOp | ast.Call):
        for form in ("a + 1", "a**2"):
            yield form, _parsed(form, a=node)


def wrong(tree: ast.FunctionDef, namespace: dict) -> Iterator[tuple[str, Callable]]:
    """Answers with one fault; a few of them still say the same."""
    solution = build(tree, namespace)
    parameters = [argument.arg for argument in tree.args.args]
    slips = [functools.partial(kind, parameters=parameters) for kind in (_faults, _more_faults)]
    for label, faulty in _enough(14, tree, *slips):
        yield label, build(faulty, namespace)
    for factor in (-1.0, 2.0, 0.5, 3.0):
        yield f"{factor} times", lambda *a, _by=factor, **k: jax.tree.map(
            lambda v: _by * v, solution(*a, **k))  # fmt: skip
    for i in range(len(parameters) - 1):

        def exchanged(*a, _i=i, **k):
            return solution(*a[:_i], a[_i + 1], a[_i], *a[_i + 2 :], **k)

        yield f"{parameters[i]} and {parameters[i + 1]} exchanged", exchanged
