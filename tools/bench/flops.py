"""Count the additions and multiplications in a JAX function's matrix products.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs. This follows the
traced function instead: a product in a scan counts as often as it runs, unless nothing in it
changes from turn to turn, in which case a compiler computes it once; the same product of the same
arrays counts once; and a product that no result depends on does not count.
"""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def matmul_flops(function: Callable, *arguments) -> int:
    """Floating-point operations of the matrix products in `function(*arguments)`.

    Raises ValueError for a convolution, and for a product in a loop or branch of unknown course.
    """
    traced = eqx.filter_make_jaxpr(function)(*arguments)[0]
    graph = _Graph()
    inputs = [graph.add() for _ in traced.jaxpr.invars]
    outputs = graph.follow(traced.jaxpr, graph.constants(traced.consts), inputs)
    return graph.cost(outputs)


class _Graph:
    """Values, numbered: what each is made from, its cost, and how often it is made anew."""

    def __init__(self) -> None:
        self.parents: list[tuple[int, ...]] = []
        self.flops: list[int] = []
        self.repeats: list[int] = []
        self.known: dict[tuple, list[int]] = {}

    def add(self, parents: Sequence[int] = (), flops: int = 0, repeats: int = 1) -> int:
        self.parents.append(tuple(parents))
        self.flops.append(flops)
        self.repeats.append(repeats)
        return len(self.parents) - 1

    def cost(self, outputs: list[int]) -> int:
        needed, waiting = set(), list(outputs)
        while waiting:
            value = waiting.pop()
            if value not in needed:
                needed.add(value)
                waiting += self.parents[value]
        return sum(self.flops[value] * self.repeats[value] for value in needed)

    def constants(self, arrays: Sequence) -> list[int]:
        return [self.known.setdefault(("constant", id(a)), [self.add()])[0] for a in arrays]

    def follow(self, jaxpr: Jaxpr, constants: list[int], inputs: list[int]) -> list[int]:
        """Add a jaxpr's equations; returns the numbers of its results."""
        number = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))

        def of(variable) -> int:
            if isinstance(variable, Literal):
                key = ("literal", str(variable.val), str(variable.aval))
                return self.known.setdefault(key, [self.add()])[0]
            return number[variable]

        for equation in jaxpr.eqns:
            results = self.equation(equation, [of(variable) for variable in equation.invars])
            number |= zip(equation.outvars, results, strict=True)
        return [of(variable) for variable in jaxpr.outvars]

    def equation(self, equation, inputs: list[int]) -> list[int]:
        name, repeats = equation.primitive.name, max([self.repeats[i] for i in inputs], default=1)
        inner = [p for p in equation.params.values() if isinstance(p, ClosedJaxpr | Jaxpr)]
        if name == "scan":
            return self.scan(equation, inputs, repeats)
        if name not in ("while", "cond") and len(inner) == 1:  # jit, custom derivatives, remat
            closed = inner[0] if isinstance(inner[0], ClosedJaxpr) else ClosedJaxpr(inner[0], ())
            return self.follow(closed.jaxpr, self.constants(closed.consts), inputs)
        text = str(equation)
        if "conv_general" in text or (name != "dot_general" and "dot_general" in text):
            raise ValueError(f"cannot count the products in {name!r}; count them by hand")
        key = (name, str(equation.params), *inputs)
        if key not in self.known:
            flops = _product(equation) if name == "dot_general" else 0
            self.known[key] = [self.add(inputs, flops, repeats) for _ in equation.outvars]
        return self.known[key]

    def scan(self, equation, inputs: list[int], repeats: int) -> list[int]:
        body, length = equation.params["jaxpr"], equation.params["length"]
        fixed, carried = equation.params["num_consts"], equation.params["num_carry"]
        turn = [
            *inputs[:fixed],
            *[self.add([i], repeats=repeats * length) for i in inputs[fixed:]],
        ]
        for i in range(carried):
            if body.jaxpr.outvars[i] is body.jaxpr.invars[fixed + i]:  # carried, never changed
                turn[fixed + i] = inputs[fixed + i]
        results = self.follow(body.jaxpr, self.constants(body.consts), turn)
        return [self.add([*results, *inputs], repeats=repeats) for _ in equation.outvars]


def _product(equation) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * math.prod(result) * math.prod(left[i] for i in contracted)
