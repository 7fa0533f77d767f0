"""Forges and reads Micheline with PyTezos, in whose environment it runs.

    python pytezos_micheline.py primitives      their names and numbers
    python pytezos_micheline.py forge FILE      the bytes of a JSON list of expressions, in hex
    python pytezos_micheline.py parse FILE      the expressions of a JSON list of Michelson texts

All of it is printed as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pytezos.michelson.forge import forge_micheline  # type: ignore[import-not-found]
from pytezos.michelson.parse import MichelsonParser  # type: ignore[import-not-found]
from pytezos.michelson.tags import prim_tags  # type: ignore[import-not-found]

# The number of names that its own tools have beside the primitives.
_NO_PRIMITIVE = 0xEE


def _main() -> None:
    result: Any
    if sys.argv[1] == "primitives":
        numbers = {name: number[0] for name, number in prim_tags.items()}
        result = {name: number for name, number in numbers.items() if number != _NO_PRIMITIVE}
    else:
        asked = json.loads(Path(sys.argv[2]).read_text("utf-8"))
        if sys.argv[1] == "forge":
            result = [forge_micheline(expression).hex() for expression in asked]
        else:
            parser = MichelsonParser()
            result = [parser.parse(text) for text in asked]
    print(json.dumps(result))


_main()
