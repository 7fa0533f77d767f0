"""What is changed in a line: operators of Cosmic Ray, and some that it has not."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import parso
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator

_COMPARISONS = (
    *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is"),
    *("Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt"),
)
_ARITHMETIC = (
    *("Add_Sub", "Sub_Add", "Mul_FloorDiv", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul"),
    *("RShift_LShift", "LShift_RShift", "BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitAnd"),
)
_OTHERS = (
    "ReplaceUnaryOperator_USub_UAdd",
    "ReplaceUnaryOperator_Delete_Invert",
    "ReplaceUnaryOperator_Delete_Not",
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "NumberReplacer",
    "ZeroIterationForLoop",
)
_TO_DROP = {
    "return_stmt",
    "raise_stmt",
    "del_stmt",
    "atom_expr",
    "power",
    "await_expr",
}

_Positions = Iterator[tuple[tuple[int, int], tuple[int, int]]]


def operators() -> list[Operator]:
    """All ways in which a piece of code is changed."""
    names = (
        *(f"ReplaceComparisonOperator_{pair}" for pair in _COMPARISONS),
        *(f"ReplaceBinaryOperator_{pair}" for pair in _ARITHMETIC),
        *_OTHERS,
    )
    return [
        *(get_operator(f"core/{name}")() for name in names),
        DropStatement(),
        DropKeywordArgument(),
        CatchNothing(),
        SwapMembership(),
    ]


class _Replacing(Operator):  # type: ignore[misc]
    """One change of each node that it fits."""

    @abstractmethod
    def fits(self, node: Any) -> bool:
        """Whether this node is changed."""

    @abstractmethod
    def changed(self, node: Any) -> str:
        """The code in the place of a node, with what is before it."""

    def mutation_positions(self, node: Any) -> _Positions:
        """Once, or not at all."""
        if self.fits(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The changed node."""
        return parso.parse(self.changed(node))

    @classmethod
    def examples(cls) -> Iterable[Example]:
        """Shown by Cosmic Ray's own tests only."""
        return ()


class DropStatement(_Replacing):
    """A call whose result nobody takes, a change of a state, a return, a raise: not done.

    Not so for assertions, most of which speak to the type checker: they are only inverted.
    """

    def fits(self, node: Any) -> bool:
        if node.parent is None or node.parent.type != "simple_stmt" or not _in_function(node):
            return False
        if node.type == "expr_stmt":
            # A name that is not set would only be a NameError.
            target, sign = node.children[0], node.children[1]
            return target.type != "name" or getattr(sign, "value", "=") != "="
        return node.type in _TO_DROP or (node.type == "keyword" and node.value == "return")

    def changed(self, node: Any) -> str:
        return f"{_prefix(node)}pass"


class DropKeywordArgument(_Replacing):
    """An argument that has a default value: not given."""

    def fits(self, node: Any) -> bool:
        return (
            node.type == "argument"
            and len(node.children) == 3
            and node.children[1] == "="
            and _in_function(node)
        )

    def changed(self, node: Any) -> str:
        return f"{_prefix(node)}**{{}}"


class CatchNothing(_Replacing):
    """Exceptions that are caught, or suppressed: are not."""

    def fits(self, node: Any) -> bool:
        before = node.get_previous_sibling() if node.parent is not None else None
        if before is None:
            return False
        if before == "except":
            return True
        called = before.get_previous_sibling() if before == "(" else None
        return called is None and before == "(" and _name_before(node) == "suppress"

    def changed(self, node: Any) -> str:
        return (
            f"{_prefix(node)}()"
            if node.get_previous_sibling() == "except"
            else f"{_prefix(node)}*()"
        )


class SwapMembership(_Replacing):
    """`in` becomes `not in`, and the other way round."""

    def fits(self, node: Any) -> bool:
        if node.parent is None or node.parent.type != "comparison":
            return False
        return bool(node == "in" or (node.type == "comp_op" and node.children[0] == "not"))

    def changed(self, node: Any) -> str:
        return f"{_prefix(node)}{'in' if node.type == 'comp_op' else 'not in'}"


def _prefix(node: Any) -> str:
    """Blanks and comments before a node."""
    return str(node.get_first_leaf().prefix)


def _name_before(node: Any) -> str:
    """The name of the function that is called with a node as its first argument."""
    leaf = node.get_first_leaf().get_previous_leaf().get_previous_leaf()
    return str(leaf.value) if leaf is not None else ""


def _in_function(node: Any) -> bool:
    while node is not None:
        if node.type == "funcdef":
            return True
        node = node.parent
    return False
