"""Forges operation groups with PyTezos, in whose environment it runs.

Each line of the input is a group as JSON. The first line of the output lists the primitives of
Michelson that PyTezos knows; then there is a line for each group, with its bytes in hexadecimal
digits, as a JSON string, or what went wrong, as `{"error": "…"}`.
"""

import json
import sys

from pytezos.michelson.tags import prim_tags  # type: ignore[import-not-found]
from pytezos.operation.forge import forge_operation_group  # type: ignore[import-not-found]


def _forged(line: str) -> str | dict[str, str]:
    try:
        forged: bytes = forge_operation_group(json.loads(line))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return forged.hex()


print(json.dumps(list(prim_tags)))
for group in sys.stdin:
    print(json.dumps(_forged(group)))
