"""The private names of Twisted that this project uses, each with its reason, and nothing besides."""

import ast
import inspect
import pkgutil
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

import tezio_signer

# ruff: noqa: E501 # a line for each
USED = {
    "twisted.internet._posixserialport.SerialPort._serial": "serialhsm: pyserial's port, to know whether all has been sent",
    "twisted.internet._sslverify": "tls.directory: its logger, see below",
    "twisted.internet._sslverify._log": "tls.directory: says a line for each failed handshake, which any client can cause",
    "twisted.internet.abstract.FileDescriptor._tempDataBuffer": "serialhsm: bytes that wait to be sent",
    "twisted.internet.tcp.Port._getLogPrefix": "ports: for the line that Twisted logs when it listens",
    "twisted.internet.tcp.Port._preexistingSocket": "ports: a socket that was handed over, as adoptStreamPort has it",
    "twisted.internet.tcp.Port._shouldShutdown": "ports: what was handed over is listened on after us",
    "twisted.internet.tcp._reservedFD": "ports: keeps a descriptor for refusing connections, as tcp.Port does",
    "twisted.internet.unix.Port._bindPath": "ports: the path, for the log",
    "twisted.internet.unix.Port._getLogPrefix": "ports: as that of tcp.Port",
    "twisted.internet.unix.Port._preexistingSocket": "ports: as that of tcp.Port",
    "twisted.protocols._sni": "tls.directory: what tls: endpoints find in a directory, and their logger",
    "twisted.protocols._sni._getSubjectAltNames": "tls.certificates: the names for which tls: endpoints serve a certificate",
    "twisted.protocols.tls.TLSMemoryBIOProtocol._aborted": "tls.handshakes: whether we have ended it ourselves",
    "twisted.protocols.tls.TLSMemoryBIOProtocol._handshakeDone": "tls.handshakes: whether it failed before",
    "twisted.protocols.tls.TLSMemoryBIOProtocol._reason": "tls.handshakes: why it failed, for the log",
    "twisted.web.client._HTTP11ClientFactory": "watermarks.opening: logs each connection to etcd without a way to keep it from that",
    "twisted.web.http.HTTPChannel._dataBuffer": "httpsite: whether requests are sent behind one another",
    "twisted.web.http.HTTPChannel._respondToBadRequestAndDisconnect": "httpsite: a request that cannot be read gets a 400",
    "twisted.web.http.HTTPChannel._waitingForTransport": "httpsite: whether the client reads its answers",
    "twisted.web.http.Request._respondToBadRequestAndDisconnect": "httpsite: as that of the channel",
    "twisted.web.http._MalformedChunkedDataError": "httpsite: too many chunks are answered as chunks that cannot be read",
}
"""What may change with any version of Twisted, where it is used, and why."""


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(tezio_signer.__path__, "tezio_signer."):
        yield import_module(found.name)


def _tree(of: ModuleType | type) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(of)))


def _attributes(of: ModuleType | type) -> set[str]:
    """The private attributes that code reads or sets of objects, and what its classes define."""
    names = set()
    for node in ast.walk(_tree(of)):
        if isinstance(node, ast.Attribute):
            if not inspect.ismodule(_held(of, node)):
                names.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return set(filter(_is_private, names))


def _held(of: ModuleType | type, attribute: ast.Attribute) -> object:
    """Of what an attribute is taken, if that is a global name."""
    namespace = sys.modules[of.__module__] if isinstance(of, type) else of
    return (
        getattr(namespace, attribute.value.id, None)
        if isinstance(attribute.value, ast.Name)
        else None
    )


def _imported(module: ModuleType) -> Iterator[str]:
    """Private names that a module imports from Twisted, or takes from a module of Twisted."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("twisted"):
            for name in node.names:
                if _is_private(name.name) or "._" in (node.module or ""):
                    yield f"{node.module}.{name.name}"
        elif isinstance(node, ast.Attribute) and _is_private(node.attr):
            held = _held(module, node)
            if inspect.ismodule(held) and held.__name__.startswith("twisted"):
                yield f"{held.__name__}.{node.attr}"


def _inherited(module: ModuleType) -> Iterator[str]:
    """Private names of a class of Twisted that a subclass, or its module, uses or takes over."""
    ours = _attributes(module)
    for _, kind in inspect.getmembers(module, inspect.isclass):
        if kind.__module__ != module.__name__:
            continue
        seen: set[str] = set()
        for base in kind.__mro__[1:]:
            if base.__module__.startswith("twisted."):
                names = (ours & _attributes(base)) - seen
                seen |= names
                yield from (f"{base.__module__}.{base.__qualname__}.{name}" for name in names)


class PrivateNameTests(SynchronousTestCase):
    """A version of Twisted may change them without a word."""

    def setUp(self) -> None:
        self.modules = tuple(_modules())

    def test_named_here(self) -> None:
        """What the code uses is in the list, and nothing else is."""
        used = {
            name for module in self.modules for name in (*_imported(module), *_inherited(module))
        }
        self.assertEqual(used, set(USED))

    def test_are_there(self) -> None:
        """The Twisted that is installed has them all."""
        for name in USED:
            owner, _, attribute = name.rpartition(".")
            held = namedAny(owner)
            there = hasattr(held, attribute) or attribute in _attributes(held)
            self.assertTrue(there, f"{name}: {USED[name]}")
