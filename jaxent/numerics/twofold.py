"""Single precision taken twice: a number as the sum of two float32, some 46 bits of it.

The system of an interior-point step asks for more digits than float32 has, and an accelerator has
no others that are fast. `in_twofold` makes a factorization and its solver keep every number as a
float32 and what rounding left of it. It reads the program that JAX traced, operation by operation:
sums, products, quotients and roots by error-free transformations, what only moves numbers twice,
loops and the rest as they are. The code that is so read is written once, for any precision; in
float64 it runs as it stands.

A compiler may contract a product and a sum into one operation with one rounding, and then what is
taken for a rounding error is none. So the products that are added are those of half as many bits,
which are exact either way, and of the one that is not the last bit is cut, which also keeps the
compiler from looking through it.

References:
    Dekker, A floating-point technique for extending the available precision, Numer. Math. 1971.
    Ogita, Rump and Oishi, Accurate sum and dot product, SIAM J. Sci. Comput. 2005.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

Array = jax.Array

_SINGLE = np.dtype(np.float32)
# What is lost at most in a few operations, against 2^-23 in float32.
_UNIT = 2.0**-44
# Lowest bits that are cut: from a product, and from a factor so that half of its 24 are left.
_LAST, _HALF = 1, 12


class Twofold(NamedTuple):
    """A number as high + low, low at most half a unit in the last place of high."""

    high: Array
    low: Array


def in_twofold(factor: Callable[..., Any]) -> Callable[..., Any]:
    """The same factorization and solver, in twofold arithmetic where they are given float32.

    Args:
        factor: from arrays to a solver, a function that holds its arrays as a pytree does
            (`jax.tree_util.Partial`). Neither may meet an operation that has no rule here.
    """

    def make(*args: Any) -> Callable[..., Any]:
        if _SINGLE not in {x.dtype for x in jax.tree.leaves(args)}:
            return factor(*args)
        solver = _evaluate(factor, *args)

        def solve(*args: Any) -> Any:
            found = _evaluate(lambda solver, *args: solver(*args), solver, *args)
            return jax.tree.map(
                lambda x: x.high if _is_twofold(x) else x, found, is_leaf=_is_twofold
            )

        return solve

    return make


@jax.jit
def unit_roundoff(x: Array) -> Array:
    """The rounding unit of the arithmetic that x is kept in; `_call` knows it by its name."""
    return jnp.full((), jnp.finfo(x.dtype).eps, x.dtype)


def _evaluate(function: Callable[..., Any], *args: Any) -> Any:
    """What a function of arrays and of twofold numbers gives, its float32 twofold."""
    leaves, tree = jax.tree.flatten(args, is_leaf=_is_twofold)
    single = jax.tree.unflatten(tree, map(_single, leaves))
    program, shape = jax.make_jaxpr(function, return_shape=True)(*single)
    return jax.tree.unflatten(jax.tree.structure(shape), _run(program, leaves))


def _run(program: Any, args: Sequence[Any]) -> list[Any]:
    """The results of a traced program, one operation after another."""
    jaxpr = program.jaxpr
    known: dict[Any, Any] = {}
    known |= dict(zip(jaxpr.constvars, map(_twofold, program.consts), strict=True))
    known |= dict(zip(jaxpr.invars, map(_twofold, args), strict=True))

    def read(atom):
        if not isinstance(atom, core.Literal):
            return known[atom]
        aval: Any = atom.aval
        return _twofold(jnp.asarray(atom.val, aval.dtype))

    for equation in jaxpr.eqns:
        results = _apply(equation, [read(atom) for atom in equation.invars])
        known |= dict(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, args: list[Any]) -> Sequence[Any]:
    """The results of one operation."""
    primitive, params = equation.primitive, equation.params
    if primitive.name in _CALLS:
        return _CALLS[primitive.name](args, **params)
    if primitive.name in _RULES and any(map(_is_twofold, args)):
        return [_RULES[primitive.name](*args, **params)]

    def bind(args):
        found = primitive.bind(*args, **params)
        return found if primitive.multiple_results else [found]

    if not any(map(_is_twofold, args)):
        return list(map(_twofold, bind(args)))
    if primitive.name not in _MOVES:
        raise NotImplementedError(f"{primitive.name}: there is no rule for it in twofold numbers")
    parts = ([x[part] if _is_twofold(x) else x for x in args] for part in range(2))
    return list(map(Twofold, *map(bind, parts)))


def _is_twofold(x: Any) -> bool:
    return isinstance(x, Twofold)


def _single(x: Any) -> Any:
    return x.high if _is_twofold(x) else x


def _twofold(x: Any) -> Any:
    """A float32 as twofold; anything else as it is."""
    if _is_twofold(x) or x.dtype != _SINGLE:
        return x
    return Twofold(x, jnp.zeros_like(x))


# Programs inside a program.


def _call(args: list[Any], *, jaxpr: Any, name: str, **_: Any) -> list[Any]:
    if name == "unit_roundoff":
        return [_twofold(jnp.full((), _UNIT, _SINGLE))]
    return _run(jaxpr, args)


def _cond(args: list[Any], *, branches: Any, branches_platforms: Any = None, **_: Any) -> list[Any]:
    if branches_platforms is not None:  # the last is for any platform
        return _run(branches[-1], args[1:])
    return lax.switch(args[0], [lambda *args, b=b: _run(b, args) for b in branches], *args[1:])


def _while(
    args: list[Any], *, cond_jaxpr: Any, body_jaxpr: Any, cond_nconsts: int, body_nconsts: int
) -> list[Any]:
    to_ask, rest = args[:cond_nconsts], args[cond_nconsts:]
    to_do, start = rest[:body_nconsts], rest[body_nconsts:]
    return lax.while_loop(
        lambda state: _run(cond_jaxpr, [*to_ask, *state])[0],
        lambda state: _run(body_jaxpr, [*to_do, *state]),
        start,
    )


def _scan(
    args: list[Any], *, jaxpr: Any, length: int, reverse: bool, unroll: int, **groups: Any
) -> list[Any]:
    if "ft_in" in groups:  # from JAX 0.11 on
        num_consts, num_carry = (len(group) for group in list(groups["ft_in"].unpack())[:2])
    else:
        num_consts, num_carry = groups["num_consts"], groups["num_carry"]
    constants, rest = args[:num_consts], args[num_consts:]

    def body(state, each):
        found = _run(jaxpr, [*constants, *state, *each])
        return found[:num_carry], found[num_carry:]

    start, each = rest[:num_carry], rest[num_carry:]
    state, every = lax.scan(body, start, each, length=length, reverse=reverse, unroll=unroll)
    return [*state, *every]


# Arithmetic.


def _cut(x: Array, bits: int) -> Array:
    """x without its lowest bits."""
    kept = lax.bitcast_convert_type(x, jnp.int32) & np.int32(-(1 << bits))
    return lax.bitcast_convert_type(kept, _SINGLE)


def _settled(high: Array, low: Array) -> Twofold:
    """high + low as a twofold number, for low smaller than high."""
    total = high + low
    return Twofold(total, low - (total - high))


def _sum_and_error(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def _product_and_error(a: Array, b: Array) -> tuple[Array, Array]:
    product = _cut(a * b, _LAST)
    a_high, b_high = _cut(a, _HALF), _cut(b, _HALF)
    a_low, b_low = a - a_high, b - b_high
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _added(a: Twofold, b: Twofold) -> Twofold:
    """a + b, not settled."""
    total, error = _sum_and_error(a.high, b.high)
    return Twofold(total, a.low + (b.low + error))


def _multiplied(a: Twofold, b: Twofold) -> Twofold:
    """a b, not settled."""
    product, error = _product_and_error(a.high, b.high)
    return Twofold(product, error + (a.high * b.low + a.low * b.high))


def _negative(a: Twofold) -> Twofold:
    return Twofold(-a.high, -a.low)


def _quotient(a: Twofold, b: Twofold) -> Twofold:
    first = a.high / b.high
    product, error = _product_and_error(first, b.high)
    second = (((a.high - product) - error + a.low) - first * b.low) / b.high
    # By 0 or infinity the first is all there is.
    return _settled(first, jnp.where(jnp.isfinite(second), second, 0))


def _root(a: Twofold) -> Twofold:
    first = jnp.sqrt(a.high)
    product, error = _product_and_error(first, first)
    missing = (a.high - product) - error + a.low
    return _settled(first, missing / jnp.where(first > 0, 2 * first, 1))


def _total(a: Twofold, axes: Sequence[int]) -> Twofold:
    """Errors are added up beside the sum, and settled last."""
    zero = np.zeros((), _SINGLE)
    found = lax.reduce(
        tuple(a), (zero, zero), lambda a, b: tuple(_added(Twofold(*a), Twofold(*b))), axes
    )
    return _settled(*found)


def _dot_general(a: Twofold, b: Twofold, *, dimension_numbers: Any, **_: Any) -> Twofold:
    summed, batched = dimension_numbers

    def arrange(x: Twofold, summed: Sequence[int], batched: Sequence[int]):
        """`[batch.., free, summed]`, and the shapes of the first two."""
        shape = x.high.shape
        free = [k for k in range(len(shape)) if k not in (*summed, *batched)]
        batch, others = [shape[k] for k in batched], [shape[k] for k in free]
        flat = (*batch, prod(others), prod(shape[k] for k in summed))
        order = (*batched, *free, *summed)
        return Twofold(*(part.transpose(order).reshape(flat) for part in x)), batch, others

    a, batch, rows = arrange(a, summed[0], batched[0])
    b, batch, columns = arrange(b, summed[1], batched[1])
    shape = (*batch, prod(rows), prod(columns), a.high.shape[-1])
    a = Twofold(*(jnp.broadcast_to(part[..., :, None, :], shape) for part in a))
    b = Twofold(*(jnp.broadcast_to(part[..., None, :, :], shape) for part in b))
    found = _total(_multiplied(a, b), (len(shape) - 1,))
    return Twofold(*(part.reshape(*batch, *rows, *columns) for part in found))


def _compared(compare: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def rule(a: Twofold, b: Twofold) -> Array:
        tied = a.high == b.high
        return jnp.where(tied, compare(a.low, b.low), compare(a.high, b.high))

    return rule


def _converted(a: Twofold, *, new_dtype: Any, **_: Any) -> Any:
    return a if new_dtype == _SINGLE else a.high.astype(new_dtype)


_CALLS = {"jit": _call, "cond": _cond, "while": _while, "scan": _scan}
_RULES = {
    "add": lambda a, b, **_: _settled(*_added(a, b)),
    "sub": lambda a, b, **_: _settled(*_added(a, _negative(b))),
    "mul": lambda a, b, **_: _settled(*_multiplied(a, b)),
    "div": lambda a, b, **_: _quotient(a, b),
    "neg": lambda a, **_: _negative(a),
    "sqrt": lambda a, **_: _root(a),
    "square": lambda a, **_: _settled(*_multiplied(a, a)),
    "gt": lambda a, b, **_: _compared(lax.gt)(a, b),
    "lt": lambda a, b, **_: _compared(lax.lt)(a, b),
    "reduce_sum": lambda a, *, axes, **_: _total(a, axes),
    "dot_general": _dot_general,
    "convert_element_type": _converted,
}
# What moves numbers, and is done to one part after the other. So is a sum by an index, whose
# rounding errors are then lost.
_MOVES = {
    *("broadcast_in_dim", "concatenate", "copy", "dynamic_slice", "dynamic_update_slice", "gather"),
    *("pad", "reshape", "rev", "scatter", "scatter-add", "select_n", "slice", "split", "squeeze"),
    *("transpose", "unstack"),
}
