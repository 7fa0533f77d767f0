"""`tezio-signer explain`: what a payload is, and rule by rule what the daemon would decide.

It asks the daemon's own rules, on a copy of the store in memory. It signs nothing, changes
nothing, and may be run beside a daemon. What only the daemon knows (who authenticates, how many
requests came in the last minute) it cannot tell; it says so, and takes it for granted.
"""

import argparse
import json
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tezio_signer.cli.common import CommandError, config_option, json_option
from tezio_signer.cli.explanation import Explanation, explanation_json, explanation_lines
from tezio_signer.cli.payloadtext import payload_json, payload_lines
from tezio_signer.config.hints import spelled_out
from tezio_signer.config.locate import load_settings, named_config
from tezio_signer.config.settings import EtcdAddress, Settings
from tezio_signer.errors import Refused
from tezio_signer.policy import policy_of
from tezio_signer.request import Peer, SigningRequest
from tezio_signer.rules.verdict import NotKnownHere, Verdict
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature
from tezio_signer.watermarks.claims import Watermarks
from tezio_signer.watermarks.copied import CopiedStore
from tezio_signer.watermarks.sqlite.reading import Content, read_all
from tezio_signer.watermarks.store import StoreAwayError, StoreError

if TYPE_CHECKING:  # which takes longer to import than all else
    from tezio_signer.watermarks.etcd.store import EtcdStore

_MOST_READ = 1024 * 1024
"""Bytes of the standard input, which is the most that a daemon reads of a request too."""
_RATE = "only the running daemon knows how many there were"
_NOT_AUTHENTICATED = "no authentication signature was given (--authentication)"

Copied = Content | StoreError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let it take a payload, and what a request has besides."""
    parser.add_argument(
        "payload",
        metavar="HEX",
        help="the payload, magic byte first, as in a request; - reads it from standard input",
    )
    parser.add_argument(
        "--key", metavar="tz…", type=_key, help="for this key [default: for each of them]"
    )
    parser.add_argument(
        "--peer",
        metavar="IP",
        type=_peer,
        default=Peer(),
        help="asked from this address [default: 127.0.0.1]",
    )
    parser.add_argument(
        "--authentication",
        metavar="SIG",
        type=_signature,
        help="with this authentication signature",
    )
    config_option(parser)
    json_option(parser)
    parser.set_defaults(usage_error=parser.error)


def run(options: argparse.Namespace) -> None:
    """Print the explanation; exits with 1 if nothing would be signed."""
    try:
        data = payload_of(_input(options.payload))
    except ValueError as error:
        options.usage_error(str(error))
    settings = load_settings(options.config)
    keys = [options.key] if options.key is not None else list(settings.signing_keys)
    if not keys:
        raise CommandError("the configuration has no signing key (policy.signing_keys)")
    try:
        content = content_of(settings)
    except StoreError as error:
        sentence = spelled_out(str(error), named_config(options.config), settings.store)
        raise CommandError(f"the signer does not start: {sentence}") from error
    explanations = [
        explain(settings, content, key, data, options.peer, options.authentication) for key in keys
    ]
    if options.json:
        said = {
            "payload": payload_json(data),
            "store": str(settings.store),
            "keys": [explanation_json(each) for each in explanations],
        }
        print(json.dumps(said, indent=2))
    else:
        print("\n".join(payload_lines(data)))
        for explanation in explanations:
            print("\n".join(["", *explanation_lines(explanation)]))
    if not any(explanation.would_be_signed for explanation in explanations):
        sys.exit(1)


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


def _input(text: str) -> str:
    if text != "-":
        return text
    stream = getattr(sys.stdin, "buffer", None)
    read_all = sys.stdin.read(_MOST_READ + 1) if stream is None else stream.read(_MOST_READ + 1)
    if len(read_all) > _MOST_READ:
        raise ValueError(f"standard input has more than {_MOST_READ} bytes: that is no payload")
    return read_all if isinstance(read_all, str) else read_all.decode("utf-8", "replace")


def content_of(settings: Settings) -> Copied:
    """A copy of what is in the store; the error where it does not answer for the time being.

    :raises StoreError: with what the daemon does not start with.
    """
    address = settings.store
    assert address is not None  # it is so with --simulate only
    if not isinstance(address, EtcdAddress):
        return read_all(address)
    from tezio_signer.cli.reacting import run_reactor
    from tezio_signer.watermarks.opening import etcd_store

    answers: list[Copied] = []

    async def ask(store: "EtcdStore") -> None:
        try:
            answers.append(Content(await store.read(), await store.read_spending()))
        except StoreAwayError as error:
            answers.append(error)
        finally:
            await store.close()

    run_reactor(lambda reactor: Deferred.fromCoroutine(ask(etcd_store(address, reactor))))
    return answers[0]


def explain(
    settings: Settings,
    content: Copied,
    key: PublicKeyHash,
    data: bytes,
    peer: Peer,
    authentication: Signature | None = None,
) -> Explanation:
    """Ask all rules about one request, on a copy of its own."""
    watermarks = Watermarks(lambda: CopiedStore(content), settings.floors, Clock())
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
