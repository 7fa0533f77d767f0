"""`tezio-signer watermarks`: make the store, look at it, move marks by hand, carry them over."""

import argparse
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import time
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tezio_signer.cli.common import (
    CommandError,
    config_option,
    json_option,
    print_rows,
)
from tezio_signer.cli.reacting import run_reactor
from tezio_signer.config.hints import spelled_out
from tezio_signer.config.locate import load_settings, named_config
from tezio_signer.config.settings import EtcdAddress, Settings, StoreAddress
from tezio_signer.tezos import base58check
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.tezos.payload import BAKING_OPERATIONS
from tezio_signer.watermarks import transfer
from tezio_signer.watermarks.markjson import LAST_LEVEL, TransferError, order
from tezio_signer.watermarks.opening import OperatedStore, SqliteFile, etcd_store
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import StoreError
from tezio_signer.watermarks.transfer import Outcome, Reading

_OPERATIONS = {str(operation): operation for operation in BAKING_OPERATIONS}
_Value = TypeVar("_Value")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let it take its actions, each with what it takes."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    init = _action(actions, "init", _init, "create the store; refused if it exists")
    listing = _action(actions, "list", _list, "list all marks")
    setting = _action(actions, "set", _set, "raise a mark: nothing is signed at or below it")
    setting.add_argument("--chain", required=True, metavar="NetX…", type=_chain)
    setting.add_argument("--key", required=True, metavar="tz…", type=_key)
    setting.add_argument("--operation", required=True, choices=_OPERATIONS)
    setting.add_argument("--level", required=True, metavar="N", type=_natural)
    setting.add_argument("--round", default=0, metavar="N", type=_natural, help="[default: 0]")
    setting.add_argument(
        "--lower", action="store_true", help="lower it all the same, after a confirmation"
    )
    setting.add_argument(
        "--unlisted",
        action="store_true",
        help="also for a key or a chain that the configuration does not have",
    )
    export = _action(actions, "export", _export, "write all marks as JSON")
    export.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="a new file [default: - for stdout]"
    )
    bringing = _action(
        actions,
        "import",
        _import,
        "take over marks that are higher: of an export, of octez-signer or of Signatory",
    )
    bringing.add_argument("file", metavar="FILE", help="or the directory that holds the files")
    bringing.add_argument("--key", metavar="tz…", type=_key, help="of this key only")
    for action in (init, listing, setting, export, bringing):
        config_option(action)
    for action in (listing, bringing):
        json_option(action)


def _action(
    actions: Any, name: str, act: Callable[[argparse.Namespace], None], about: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=about, description=about)
    parser.set_defaults(act=act)
    return cast(argparse.ArgumentParser, parser)


def run(options: argparse.Namespace) -> None:
    """Carry out the action that was chosen."""
    options.act(options)


def _checked(read: Callable[[str], _Value], text: str) -> _Value:
    try:
        return read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _chain(text: str) -> str:
    return _checked(base58check.chain_id, text)


def _key(text: str) -> PublicKeyHash:
    return _checked(PublicKeyHash.parse, text)


def _natural(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= value <= LAST_LEVEL:
        raise argparse.ArgumentTypeError(f"a number from 0 to {LAST_LEVEL}")
    return value


_Act = Callable[[OperatedStore, StoreAddress], Coroutine[Any, Any, None]]


def _settings(options: argparse.Namespace) -> Settings:
    return load_settings(options.config)


def _with_store(options: argparse.Namespace, settings: Settings, act: _Act) -> None:
    """Do something with the store of a configuration; what is said names both."""
    address = settings.store
    assert address is not None
    config = named_config(options.config)
    try:
        _acting_on(address, act)
    except (CommandError, StoreError) as error:
        raise CommandError(spelled_out(str(error), config, address)) from error


def _acting_on(address: StoreAddress, act: _Act) -> None:
    async def acting(store: OperatedStore) -> None:
        try:
            await act(store, address)
        finally:
            await store.close()

    if isinstance(address, EtcdAddress):
        run_reactor(lambda reactor: Deferred.fromCoroutine(acting(etcd_store(address, reactor))))
        return
    failures: list[Failure] = []  # a file needs no reactor: it is done when this returns
    Deferred.fromCoroutine(acting(SqliteFile(address))).addErrback(failures.append)
    if failures:
        failures[0].raiseException()


def _say_store(address: StoreAddress) -> None:
    """Name the store, beside what others may read."""
    print(f"watermark store: {address}", file=sys.stderr)


def _init(options: argparse.Namespace) -> None:
    async def init(store: OperatedStore, address: StoreAddress) -> None:
        await store.create()
        what = "the watermark store in " if isinstance(address, EtcdAddress) else ""
        print(f"created {what}{address}")

    _with_store(options, _settings(options), init)


def _list(options: argparse.Namespace) -> None:
    async def listing(store: OperatedStore, address: StoreAddress) -> None:
        marks = transfer.rows(await store.read())
        spending = transfer.spending_rows(await store.read_spending(), time())
        _say_store(address)
        if options.json:
            print_rows([*marks, *spending], True)
            return
        _print(marks, "no marks yet", False)
        if spending:
            print("\nspent in the last 24 hours:")
            print_rows(spending, False)

    _with_store(options, _settings(options), listing)


def _print(rows: list[dict[str, Any]], nothing: str, as_json: bool) -> None:
    if rows or as_json:
        print_rows(rows, as_json)
    else:
        print(nothing)


def _set(options: argparse.Namespace) -> None:
    mark_id = MarkId(options.chain, options.key, _OPERATIONS[options.operation])
    mark = transfer.closed(options.level, options.round)
    what = f"{mark_id.operation} of {mark_id.key} on {mark_id.chain_id}"
    settings = _settings(options)
    if not options.unlisted:
        _check_listed(settings, mark_id)

    async def setting(store: OperatedStore, address: StoreAddress) -> None:
        standing = (await store.load()).get(mark_id)
        if standing is not None and mark.position <= standing.position:
            if not options.lower:
                lower = mark.position < standing.position
                raise CommandError(
                    f"the mark for {what} in {address} is at {_position(standing)} already, "
                    f"nothing was changed{'; lowering it needs --lower' if lower else ''}"
                )
            _confirm(f"{what} in {address}", str(mark_id.key), standing, mark)
        await store.replace({mark_id: mark})
        before = "there was none" if standing is None else f"it was at {_position(standing)}"
        print(f"the mark for {what} in {address} is at {_position(mark)}; {before}")

    _with_store(options, settings, setting)


def _check_listed(settings: Settings, mark_id: MarkId) -> None:
    """Raises CommandError for a mark that no request of this configuration would ever meet."""
    key = settings.signing_keys.get(mark_id.key)
    if key is None:
        what = f"{mark_id.key} is none of the signing keys"
        named = ", ".join(map(str, settings.signing_keys))
    elif key.chains is not None and mark_id.chain_id not in key.chains:
        what = f"{mark_id.chain_id} is none of the chains of {mark_id.key}"
        named = ", ".join(sorted(key.chains))
    else:
        return
    raise CommandError(
        f"{what} in the configuration (those are: {named}), so that the mark in {settings.store} "
        "would protect nothing that is signed with it; if it is meant all the same, add --unlisted"
    )


def _position(mark: Mark) -> str:
    return f"level {mark.level} round {mark.round}"


def _confirm(what: str, address: str, standing: Mark, mark: Mark) -> None:
    print(
        f"The mark for {what} is at {_position(standing)}: what was signed there may be "
        f"signed AGAIN and DIFFERENTLY once it is at {_position(mark)}, and be punished.\n"
        "Type the address of the key to lower it: ",
        end="",
        flush=True,
    )
    if sys.stdin.readline().strip() != address:
        print()
        raise CommandError("this is not the address; the mark is kept")


def _export(options: argparse.Namespace) -> None:
    async def export(store: OperatedStore, address: StoreAddress) -> None:
        text = transfer.dump(await store.load(), await store.load_spending())
        if options.file == "-":
            _say_store(address)
            print(text, end="")
            return
        try:
            with open(options.file, "x", encoding="utf-8") as file:  # an older export stays
                file.write(text)
        except FileExistsError as error:
            raise CommandError(
                f"{options.file} exists already, and is left as it is; give another name"
            ) from error
        except OSError as error:
            raise CommandError(f"{options.file} cannot be written: {error.strerror}") from error
        _say_store(address)

    _with_store(options, _settings(options), export)


def _import(options: argparse.Namespace) -> None:
    try:
        reading = transfer.combine(_readings(Path(options.file)))
    except TransferError as error:
        raise CommandError(f"{error}; nothing was imported") from error
    brought = {
        mark_id: mark
        for mark_id, mark in reading.marks.items()
        if options.key in (None, mark_id.key)
    }
    spending = {
        key: entries for key, entries in reading.spending.items() if options.key in (None, key)
    }
    if options.key is not None and not brought and not spending:
        raise CommandError(f"{options.file} holds no mark of {options.key}")
    settings = _settings(options)
    merged: dict[MarkId, tuple[Outcome, Mark]] = {}

    async def merging(store: OperatedStore, address: StoreAddress) -> None:
        standing = await store.load()
        _say_store(address)
        for mark_id, mark in brought.items():
            merged[mark_id] = transfer.merge(standing.get(mark_id), mark)
        await store.take_over(
            {m: mark for m, (outcome, mark) in merged.items() if outcome != Outcome.KEPT},
            spending,
        )

    _with_store(options, settings, merging)
    for what in reading.ignored:
        print(f"ignored: {what}", file=sys.stderr)
    taken = {m.key for m in brought} | spending.keys()
    for key in sorted(str(key) for key in taken if key not in settings.signing_keys):
        print(f"none of the signing keys of the configuration: {key}", file=sys.stderr)
    rows = [
        {
            "chain": mark_id.chain_id,
            "key": str(mark_id.key),
            "operation": str(mark_id.operation),
            "level": merged[mark_id][1].level,
            "round": merged[mark_id][1].round,
            "outcome": str(merged[mark_id][0]),
        }
        for mark_id in sorted(merged, key=order)
    ]
    _print(rows, "no marks to import", options.json)
    if spending:
        count = sum(len(entries) for entries in spending.values())
        print(f"taken over: {count} entries of what was spent", file=sys.stderr)


def _readings(path: Path) -> list[Reading]:
    """What a file says, or the files of another signer in a directory; raises TransferError."""
    try:
        return [
            transfer.load(str(file), file.read_text("utf-8"))
            for file in (_marks_in(path) if path.is_dir() else [path])
        ]
    except OSError as error:
        raise TransferError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TransferError(f"{path}: is not UTF-8 text") from error


def _marks_in(directory: Path) -> list[Path]:
    if (directory / transfer.SIGNATORY_DIRECTORY).is_dir():
        directory /= transfer.SIGNATORY_DIRECTORY
    files = [
        file
        for file in sorted(directory.iterdir())
        if file.name in transfer.OCTEZ_FILES or transfer.signatory_chain(file.name)
    ]
    if not files:
        raise TransferError(
            f"{directory}: holds neither files of octez-signer ({', '.join(transfer.OCTEZ_FILES)}) "
            "nor of Signatory (NetX….json)"
        )
    return files
