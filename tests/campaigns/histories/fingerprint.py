"""The state of a history as a number: of everything that can have an effect later.

The objects of the signer are walked through as they are, with the variables of coroutines that
wait and of functions that will be called, so that this needs to know nothing of their making.
Two states with one number go on in the same way; two that differ only in what has no effect may
have two numbers, and are then both visited.
"""

import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from contextvars import Context
from enum import Enum
from functools import partial
from hashlib import blake2b
from types import (
    BuiltinMethodType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from tests.campaigns.histories.network import Network
from tests.campaigns.histories.referee import Referee
from tests.campaigns.histories.surroundings import Surroundings
from tests.campaigns.histories.world import BEGINNING, World
from tezio_signer.config.settings import Settings
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature

_CLOCK_TIMES = BEGINNING / 2
"""Numbers above this are times."""
_WITHOUT_EFFECT = (Logger, Settings, Referee, Surroundings, Context, ModuleType, Network, type)
_PLAIN = frozenset((type(None), int, str, bytes, bool))
_SKIPPED = {
    "_debugInfo",
    "_runningCallbacks",
    "_log",
    "__weakref__",
    "creator",
    "_repr",
    "_events",
    "setup",
}
_RECURSION = 20_000


def fingerprint(world: World) -> bytes:
    """16 bytes that are equal for equal states."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _RECURSION))
    try:
        walk = _Walk(world.now)
        for machine in world.machines.values():
            walk.all_of(machine.process, machine.paused, machine.noticed)
        walk.all_of(world.boards, world.store, world.positions)
        walk.all_of(world.referee.released, world.referee.lenient)
        for way, messages in sorted(world.network.ways.items()):
            walk.all_of(way, messages)
        return walk.digest()
    finally:
        sys.setrecursionlimit(before)  # by which others refuse what is nested too deep


class _Walk:
    """Goes through everything that can be reached, and writes down what it meets."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._met: dict[int, int] = {}
        self._kept: list[object] = []  # a number is an address, which is used again
        self._written: list[str] = []

    def all_of(self, *values: object) -> None:
        """Walk through these."""
        for value in values:
            self._walk(value)

    def digest(self) -> bytes:
        """The number of all that was met."""
        return blake2b("\n".join(self._written).encode(), digest_size=16).digest()

    def _walk(self, value: Any) -> None:
        kind = type(value)
        if kind in _PLAIN:
            self._written.append(repr(value))
            return
        way, is_value = _way_of(kind)
        if is_value:
            way(self, value)
            return
        number = self._met.get(id(value))
        if number is not None:
            self._written.append(f"#{number}")
            return
        self._met[id(value)] = len(self._met)
        self._kept.append(value)
        self._written.append(kind.__name__)
        way(self, value)

    def _float(self, value: float) -> None:
        time = value - self._now if value > _CLOCK_TIMES else value
        self._written.append(f"{time:.4f}")

    def _named(self, value: Enum) -> None:
        self._written.append(value.name)

    def _data(self, value: PublicKey | PublicKeyHash | Signature) -> None:
        self._written.append(value.data.hex())

    def _without_effect(self, value: object) -> None:
        self._written.append(type(value).__name__)

    def _error(self, value: BaseException) -> None:
        self._written.append(f"{type(value).__name__} {value}")

    def _failure(self, value: Failure) -> None:
        self._walk(value.value)

    def _mapping(self, value: Mapping[Any, Any]) -> None:
        self._written.append(str(len(value)))
        for key, item in value.items():
            self._walk(key)
            self._walk(item)

    def _sequence(self, value: Any) -> None:
        self._written.append(str(len(value)))
        for item in value:
            self._walk(item)

    def _set(self, value: set[Any]) -> None:
        digests = []
        for item in value:
            if id(item) in self._met:
                digests.append(f"#{self._met[id(item)]}")
            else:
                apart = _Walk(self._now)
                apart._met = dict(self._met)
                apart._walk(item)
                digests.append(apart.digest().hex())
        self._written.extend(sorted(digests))

    def _bytes(self, value: bytearray) -> None:
        self._written.append(value.hex())

    def _function(self, value: FunctionType) -> None:
        code = value.__code__
        self._written.append(f"{value.__module__} {value.__qualname__} {code.co_firstlineno}")
        for cell in value.__closure__ or ():
            try:
                self._walk(cell.cell_contents)
            except ValueError:
                self._written.append("empty")
        self._walk(value.__defaults__)

    def _method(self, value: MethodType) -> None:
        self._written.append(value.__func__.__qualname__)
        self._walk(value.__self__)

    def _builtin(self, value: Any) -> None:
        self._written.append(value.__name__)
        self._walk(value.__self__)

    def _partial(self, value: partial[Any]) -> None:
        self.all_of(value.func, value.args, value.keywords)

    def _coroutine(self, value: "CoroutineType[Any, Any, Any]") -> None:
        self._written.append(value.__qualname__)
        if value.cr_frame is not None:
            self._written.append(str(value.cr_frame.f_lasti))
            self._variables(value.cr_frame.f_locals)
            self._walk(value.cr_await)

    def _generator(self, value: "GeneratorType[Any, Any, Any]") -> None:
        self._written.append(value.__qualname__)
        if value.gi_frame is not None:
            self._written.append(str(value.gi_frame.f_lasti))
            self._variables(value.gi_frame.f_locals)
            self._walk(value.gi_yieldfrom)

    def _delayed_call(self, value: DelayedCall) -> None:
        if value.active():
            self._written.append(f"{value.getTime() - self._now:.4f}")
            self.all_of(value.func, value.args, value.kw)

    def _object(self, value: object) -> None:
        variables = getattr(value, "__dict__", None)
        slots = _slots(type(value))
        for name in slots:
            self._walk(getattr(value, name, None))
        if variables is not None:
            self._variables(variables)
        elif not slots:
            raise TypeError(f"{value!r} does not show its state")

    def _variables(self, variables: Mapping[str, Any]) -> None:
        for name in sorted(variables):
            if name not in _SKIPPED:
                self._written.append(name)
                self._walk(variables[name])


_WAYS: dict[type, Callable[[_Walk, Any], None]] = {
    dict: _Walk._mapping,
    OrderedDict: _Walk._mapping,
    defaultdict: _Walk._mapping,
    MappingProxyType: _Walk._mapping,
    list: _Walk._sequence,
    tuple: _Walk._sequence,
    deque: _Walk._sequence,
    set: _Walk._set,
    frozenset: _Walk._set,
    bytearray: _Walk._bytes,
    FunctionType: _Walk._function,
    MethodType: _Walk._method,
    BuiltinMethodType: _Walk._builtin,
    partial: _Walk._partial,
    CoroutineType: _Walk._coroutine,
    GeneratorType: _Walk._generator,
    DelayedCall: _Walk._delayed_call,
}
_VALUES: tuple[tuple[type | tuple[type, ...], Callable[[_Walk, Any], None]], ...] = (
    (float, _Walk._float),
    (Enum, _Walk._named),
    ((PublicKey, PublicKeyHash, Signature), _Walk._data),
    (_WITHOUT_EFFECT, _Walk._without_effect),
    (Failure, _Walk._failure),
    (BaseException, _Walk._error),
)
"""What is written down as often as it is met."""


_known_ways: dict[type, tuple[Callable[[_Walk, Any], None], bool]] = {}
_known_slots: dict[type, tuple[str, ...]] = {}


def _way_of(kind: type) -> tuple[Callable[[_Walk, Any], None], bool]:
    """How values of a kind are walked through, and whether it does not matter which one it is."""
    known = _known_ways.get(kind)
    if known is None:
        ways = [way for kinds, way in _VALUES if issubclass(kind, kinds)]
        known = (ways[0], True) if ways else (_WAYS.get(kind, _Walk._object), False)
        _known_ways[kind] = known
    return known


def _slots(kind: type) -> tuple[str, ...]:
    known = _known_slots.get(kind)
    if known is None:
        names = {name for each in kind.__mro__ for name in getattr(each, "__slots__", ())}
        known = _known_slots[kind] = tuple(sorted(names - _SKIPPED))
    return known
