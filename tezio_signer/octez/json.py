"""JSON as Octez writes and reads it: minified, ending in a line feed."""

import json

from tezio_signer.errors import Refused

Json = dict[str, "Json"] | list["Json"] | str


def encode(value: Json) -> bytes:
    """The bytes of a JSON document."""
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def error_list(refused: Refused) -> bytes:
    """An Octez error trace, of which octez-client prints the message."""
    return encode([{"kind": "temporary", "id": "failure", "msg": str(refused)}])
