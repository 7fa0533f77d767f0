"""One change of a module: where it is, what it changes, and whether it means anything."""

import ast
from difflib import SequenceMatcher
from importlib.util import find_spec
from pathlib import Path

from attrs import frozen

_OPPOSITES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.Lt: ast.GtE,
    ast.Gt: ast.LtE,
    ast.Is: ast.IsNot,
    ast.In: ast.NotIn,
}
_OPPOSITES |= {other: one for one, other in _OPPOSITES.items()}


@frozen
class Change:
    """One change of one place.

    :ivar lines: the numbers of the lines that are changed.
    :ivar where: the function or the class around it, with the name of the module.
    :ivar after: the line above.
    :ivar was: the lines as they are, in one.
    :ivar becomes: the lines with the change.
    :ivar source: the whole module with the change.
    """

    module: str
    lines: range
    where: str
    after: str
    was: str
    becomes: str
    source: str

    def __str__(self) -> str:
        return f"{self.where}, line {self.lines[0]}\n  - {self.was}\n  + {self.becomes}"


def path_of(module: str) -> Path:
    """The file of a module."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def change_of(module: str, source: str, changed: str) -> Change:
    """What has been changed in the source of a module."""
    before, after = source.splitlines(), changed.splitlines()
    blocks = [
        block
        for block in SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        if block[0] != "equal"
    ]
    _, start, _, new_start, _ = blocks[0]
    _, _, end, _, new_end = blocks[-1]
    lines = range(start + 1, max(end, start + 1) + 1)
    return Change(
        module,
        lines,
        ".".join([module.rpartition(".")[2], *_definitions(source, lines[0])]),
        before[start - 1].strip() if start else "",
        _in_one(before[start:end]),
        _in_one(after[new_start:new_end]),
        changed,
    )


def _in_one(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def _definitions(source: str, line: int) -> list[str]:
    """The names of the classes and functions around a line, the outermost first."""
    names: list[str] = []
    inside: ast.AST = ast.parse(source)
    while True:
        for node in ast.iter_child_nodes(inside):
            end = getattr(node, "end_lineno", None)
            if end is not None and node.lineno <= line <= end:  # type: ignore[attr-defined]
                inside = node
                break
        else:
            return names
        if isinstance(inside, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(inside.name)


class _Plain(ast.NodeTransformer):
    """Writes what means the same in the same way, and leaves annotations and sentences out."""

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        inner = node.operand
        if isinstance(node.op, ast.Not) and isinstance(inner, ast.Compare) and len(inner.ops) == 1:
            opposite = _OPPOSITES[type(inner.ops[0])]()
            return ast.Compare(inner.left, [opposite], inner.comparators)
        if (
            isinstance(node.op, ast.Not)
            and isinstance(inner, ast.UnaryOp)
            and isinstance(inner.op, ast.Not)
        ):
            return inner.operand
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        # How much is remembered, and a hash that is kept, save time only.
        if isinstance(node.func, ast.Name) and node.func.id == "lru_cache":
            node.keywords = []
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != "cache_hash"]
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


def meaning(source: str) -> str:
    """The same for sources that do the same; raises SyntaxError."""
    return ast.dump(_Plain().visit(ast.parse(source)))
