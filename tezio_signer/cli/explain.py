"""`tezio-signer explain`: what a payload is, and rule by rule what the daemon would decide.

It asks the daemon's own rules, on a copy of the watermarks in memory. It signs nothing, changes
nothing, and may be run beside a daemon. What only the daemon knows (who authenticates, how many
requests came in the last minute) it cannot tell; it says so, and takes it for granted.
"""

import argparse
import json
import sys
from collections.abc import Coroutine, Iterator
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tezio_signer.cli.common import CommandError, config_option, json_option
from tezio_signer.cli.explanation import Explanation, explanation_json, explanation_lines
from tezio_signer.cli.logged import (
    CHOICES,
    Record,
    Which,
    find,
    record_json,
    record_lines,
    then_and_now,
    which,
)
from tezio_signer.cli.payloadtext import payload_json, payload_lines
from tezio_signer.cli.storecopy import Stored, content_of
from tezio_signer.config.hints import spelled_out
from tezio_signer.config.locate import load_settings, named_config
from tezio_signer.config.settings import Settings
from tezio_signer.errors import Refused
from tezio_signer.policy import policy_of
from tezio_signer.request import Peer, SigningRequest
from tezio_signer.rules.verdict import NotKnownHere, Verdict
from tezio_signer.tezos import jsontext
from tezio_signer.tezos import payload as payloads
from tezio_signer.tezos.jsontext import Json
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature
from tezio_signer.tezos.operations import OperationGroup
from tezio_signer.tezos.payload import Generic
from tezio_signer.watermarks.claims import Watermarks
from tezio_signer.watermarks.copied import CopiedStore
from tezio_signer.watermarks.store import StoreError

_MOST_READ = 1024 * 1024
"""Bytes of the standard input, which is the most that a daemon reads of a request too."""
_RATE = "only the running daemon knows how many there were"
_NOT_AUTHENTICATED = "no authentication signature was given (--authentication)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let it take a payload, and what a request has besides."""
    parser.add_argument(
        "payload",
        metavar="HEX",
        nargs="?",
        help="the payload, magic byte first, as in a request; - reads it from standard input",
    )
    parser.add_argument(
        "--key",
        metavar="tz…",
        type=_key,
        help="for this key [default: the source of the operation, else each]",
    )
    parser.add_argument(
        "--peer",
        metavar="IP",
        type=_peer,
        help="asked from this address [default: 127.0.0.1]",
    )
    parser.add_argument(
        "--authentication",
        metavar="SIG",
        type=_signature,
        help="with this authentication signature",
    )
    parser.add_argument(
        "--log",
        metavar="WHICH",
        type=_which,
        help=f"what the audit log has: {CHOICES}; and what would be decided now",
    )
    config_option(parser)
    json_option(parser)
    parser.set_defaults(usage_error=parser.error)


def run(options: argparse.Namespace) -> None:
    """Print the explanation; exits with 1 if nothing would be signed."""
    try:
        given = None if options.payload is None else payload_of(_input(options.payload))
    except ValueError as error:
        options.usage_error(str(error))
    if (given is None) == (options.log is None):
        options.usage_error("either a payload or --log is expected, and not both")
    settings = load_settings(options.config)
    record = None if options.log is None else find(settings, options.log)
    asked = _asked_for(options, settings, given, record)
    try:
        explanations = _explanations(options, settings, asked) if asked is not None else []
    except CommandError:
        if asked is not None and not options.json:  # what it is can be said all the same
            print("\n".join(_text(asked, [], record)) + "\n")
        raise
    if options.json:
        print(_json_text(_json(settings, asked, explanations, record)))
    else:
        print("\n".join(_text(asked, explanations, record)))
    if asked is None:
        raise CommandError("the log has no payload or no key of it, so nothing can be explained")
    if not any(explanation.would_be_signed for explanation in explanations):
        sys.exit(1)


@frozen
class _Asked:
    """What is to be explained, and for which keys, whoever asks."""

    data: bytes
    keys: list[PublicKeyHash]
    peer: Peer


def _asked_for(
    options: argparse.Namespace, settings: Settings, given: bytes | None, record: Record | None
) -> _Asked | None:
    """What was given, or was recorded; options are stronger. None if the log has too little."""
    data = given if record is None else record.data
    peer = options.peer or (Peer() if record is None else record.peer)
    if data is None:
        return None
    key = options.key if record is None else options.key or record.key
    return _Asked(data, keys_for(settings, data) if key is None else [key], peer)


def _explanations(
    options: argparse.Namespace, settings: Settings, asked: _Asked
) -> list[Explanation]:
    if not asked.keys:
        raise CommandError("the configuration has no signing key (policy.signing_keys)")
    try:
        stored = content_of(settings)
    except StoreError as error:
        sentence = spelled_out(str(error), named_config(options.config), settings.store)
        raise CommandError(f"the signer does not start: {sentence}") from error
    return [
        explain(settings, stored, key, asked.data, asked.peer, options.authentication)
        for key in asked.keys
    ]


def _text(
    asked: _Asked | None, explanations: list[Explanation], record: Record | None
) -> Iterator[str]:
    if record is not None:
        yield from record_lines(record)
        yield ""
    if asked is not None:
        yield from payload_lines(asked.data)
    for explanation in explanations:
        yield ""
        yield from explanation_lines(explanation)
        if record is not None:
            yield from then_and_now(record, explanation)


def _json(
    settings: Settings,
    asked: _Asked | None,
    explanations: list[Explanation],
    record: Record | None,
) -> dict[str, Json]:
    said: dict[str, Json] = {
        "payload": None if asked is None else payload_json(asked.data),
        "store": str(settings.store),
        "keys": [explanation_json(each) for each in explanations],
    }
    return said if record is None else {"logged": record_json(record), **said}


def keys_for(settings: Settings, data: bytes) -> list[PublicKeyHash]:
    """The keys to explain a payload for, if nobody says: who has to sign it, else all."""
    all_keys = list(settings.signing_keys)
    try:
        payload = payloads.decode(data)
    except ValueError:
        return all_keys
    if not isinstance(payload, Generic) or not isinstance(payload.group, OperationGroup):
        return all_keys
    names = ("source", "consensus_key")  # the latter of drain_delegate
    signers = {content.fields.get(name) for content in payload.group.contents for name in names} - {
        None
    }
    return [key for key in all_keys if str(key) in signers] or all_keys


def payload_of(text: str) -> bytes:
    """The bytes of what a person has at hand; raises ValueError.

    These are hexadecimal digits, with blanks and ends of lines or without, with 0x in front, or
    as the JSON string that is the body of a request.
    """
    text = text.strip()
    if text.startswith('"'):
        try:
            text = json.loads(text)
        except ValueError as error:
            raise ValueError(f"the payload begins as a JSON string and is none: {error}") from None
    digits = "".join(text.split())
    if digits[:2] in ("0x", "0X"):
        digits = digits[2:]
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise ValueError(
            "the payload has to be an even number of hexadecimal digits, such as 11…, 0x11… or "
            '"11…"; or - to read it from standard input'
        ) from None


def _json_text(said: dict[str, Json]) -> str:
    try:
        return json.dumps(said, indent=2)
    except RecursionError:  # Michelson may be nested that deep
        return jsontext.dumps(said)


def _input(text: str) -> str:
    if text != "-":
        return text
    stream = getattr(sys.stdin, "buffer", None)
    read_all = sys.stdin.read(_MOST_READ + 1) if stream is None else stream.read(_MOST_READ + 1)
    if len(read_all) > _MOST_READ:
        raise ValueError(f"standard input has more than {_MOST_READ} bytes: that is no payload")
    return read_all if isinstance(read_all, str) else read_all.decode("utf-8", "replace")


def explain(
    settings: Settings,
    stored: Stored,
    key: PublicKeyHash,
    data: bytes,
    peer: Peer,
    authentication: Signature | None = None,
) -> Explanation:
    """Ask all rules about one request, on a copy of the store of its own."""
    watermarks = Watermarks(lambda: CopiedStore(stored), settings.floors, Clock())
    watermarks.startService()
    try:
        policy = policy_of(settings, _unknown_key, watermarks, Clock())
        assumed = {"rate": _RATE}
        wants_authentication = (
            key in settings.signing_keys and settings.authorized_for(key) is not None
        )
        if wants_authentication and authentication is None:
            assumed["authentication"] = _NOT_AUTHENTICATED
        asked = _asked(key, data, peer, authentication)
        verdicts = _at_once(policy.explain(peer, asked, assumed))
    finally:
        watermarks.stopService()
    return Explanation(key, peer, verdicts)


def _asked(
    key: PublicKeyHash, data: bytes, peer: Peer, authentication: Signature | None
) -> SigningRequest | Refused:
    try:
        return SigningRequest.read(key, data, peer, authentication)
    except Refused as refused:
        return refused


def _at_once(explaining: Coroutine[Any, Any, list[Verdict]]) -> list[Verdict]:
    """The verdicts, for which nothing has to be waited on a copy in memory."""
    ended: list[list[Verdict] | Failure] = []
    Deferred.fromCoroutine(explaining).addBoth(ended.append)
    (result,) = ended
    if isinstance(result, Failure):
        result.raiseException()
        raise AssertionError
    return result


async def _unknown_key(key: PublicKeyHash) -> PublicKey:
    raise NotKnownHere(f"the public key of {key} is in the HSM only, which is not asked here")


def _which(text: str) -> Which:
    try:
        return which(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _key(text: str) -> PublicKeyHash:
    try:
        return PublicKeyHash.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _peer(text: str) -> Peer:
    try:
        return Peer.at(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _signature(text: str) -> Signature:
    try:
        return Signature.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
