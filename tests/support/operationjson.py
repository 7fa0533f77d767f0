"""What the package has decoded, as the JSON that Octez has for it; and JSON to compare it with."""

from collections.abc import Callable, Mapping
from typing import Any

from tezio_signer.tezos.micheline import Micheline
from tezio_signer.tezos.operations import Content, OperationGroup

Json = Any


def as_json(
    group: OperationGroup, expression: Callable[[Micheline], Json] = lambda value: value.json
) -> Json:
    """A group as JSON; every number is a text, and what is absent is None.

    :param expression: what Micheline is made into.
    """

    def content_json(content: Content) -> Json:
        fields = {"kind": content.kind, **content.fields}
        if content.kind == "transaction":
            entrypoint, value = fields.pop("entrypoint"), fields.pop("value")
            called = {"entrypoint": entrypoint, "value": value}
            fields["parameters"] = None if value is None else called
        return _json(fields, expression)

    return {"branch": group.branch, "contents": [*map(content_json, group.contents)]}


def comparable(value: Json) -> Json:
    """JSON of whatever origin, without what is absent, and with texts for numbers."""
    match value:
        case Mapping():
            return {name: comparable(part) for name, part in value.items() if part is not None}
        case list():
            return [comparable(part) for part in value]
        case int() if not isinstance(value, bool):
            return str(value)
        case _:
            return value


def _json(value: Any, expression: Callable[[Micheline], Json]) -> Json:
    match value:
        case Mapping():
            return {name: _json(part, expression) for name, part in value.items()}
        case tuple():
            return [_json(part, expression) for part in value]
        case bytes():
            return value.hex()
        case Micheline():
            return expression(value)
        case int() if not isinstance(value, bool):
            return str(int(value))
        case _:
            return value
