"""All single changes of a module, each once."""

from collections.abc import Iterator

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

from tests.campaigns.mutants.change import Change, change_of, meaning, path_of
from tests.campaigns.mutants.operators import operators


def changes_of(module: str) -> Iterator[Change]:
    """What the operators make of a module; of what means the same, the first only."""
    source = path_of(module).read_text(encoding="utf-8")
    seen = {meaning(source)}
    tree = get_ast(source)
    for operator in operators():
        positions = (p for node in ast_nodes(tree) for p in operator.mutation_positions(node))
        for occurrence, _ in enumerate(positions):
            changed = mutate_code(source, operator, occurrence)
            try:
                means = meaning(changed)
            except SyntaxError:
                continue  # nobody could commit it
            if means not in seen:
                seen.add(means)
                yield change_of(module, source, changed)
