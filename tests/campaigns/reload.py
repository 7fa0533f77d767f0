"""A daemon whose configuration is replaced under load: `python -m tests.campaigns.reload`.

Clients ask without a pause, over HTTP and over sockets, on connections of their own and on those
that stay open. Meanwhile two configurations replace each other, with wrong ones between them.
They differ in all that a request is held to: address, token, key, authentication, chain. Each
request has for each of these what the one or the other wants, mixed at random; so a request that
was decided by a part of one and a part of the other gets an answer that neither of them gives.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tests.campaigns.findings import tell
from tests.campaigns.rig import carry_out
from tests.support import octezsocketclient as octezsocket
from tests.support.daemonprocess import FREE_PORT, Process, serving, spawn_daemon
from tests.support.harness import EVERY_MAGIC_BYTE, hex_body, parse_response, reactor
from tests.support.octezclient import HSM_KEYS, SecretKey, to_base58check, verifies
from tests.support.octezsocketclient import Conversation, OctezSocketError
from tests.support.vectors import OCTEZ, TZ1, TZ2, TZ3, block, consensus, noop
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.sqlite import store as sqlite

LATENCY = 0.01
"""Seconds that the HSM takes; long enough that requests are under way at each reload."""
CALM = 12
"""Requests that are answered under a configuration before the next one comes."""
PATIENCE = 30.0
"""Seconds after which a reload is taken for one that hangs."""
_HEADER = "x-tezio-token"
_CHAIN_PREFIX = bytes.fromhex("575200")
_PUBLIC_KEYS = {key.pkh: key.public_key for key in HSM_KEYS}
_EVERYBODY = "127.0.0.1"
_CONFIG = """\
hsms: [{{port: "{hsm}"}}]
watermarks: {{store: "sqlite:watermarks.sqlite"}}
list_known_keys: True
allowed_ips: ["127.0.0.1", "{side.address}"]
request_token: {{header: x-tezio-token, file: "{side.name}.token"}}
policy:
    signing_keys:
        {side.key}: {{allowed_ops: [generic], auth_req: False}}
        {baker}:
            allowed_ops: [block, preattestation, attestation]
            chains: ["{chain}"]
            authorized_keys: ["{wallet}"]
"""


@frozen
class Side:
    """What one of the two configurations wants.

    :ivar address: may ask, besides 127.0.0.1.
    :ivar key: signs generic operations.
    :ivar wallet: authenticates for blocks and attestations, which are of the chain.
    """

    name: str
    address: str
    token: str
    key: PublicKeyHash
    wallet: SecretKey
    chain: bytes

    def text(self, hsm: Path) -> str:
        """The configuration."""
        chain = to_base58check(_CHAIN_PREFIX, self.chain)
        return _CONFIG.format(
            side=self, hsm=hsm, baker=TZ3, chain=chain, wallet=self.wallet.public_key
        )


def _side(name: str, address: str, key: PublicKeyHash, wallet: str, chain: str) -> Side:
    token = f"the token of {name}".replace(" ", "-")
    return Side(name, address, token, key, SecretKey(wallet), bytes.fromhex(chain))


_WALLETS = [key["sk"] for key in OCTEZ["keys"] if key["sk"][:4] in ("edsk", "spsk", "p2sk")]
A = _side("A-side", "127.0.0.2", TZ1, _WALLETS[0], "7a06a770")
B = _side("B-side", "127.0.0.3", TZ2, _WALLETS[1], "12345678")


@frozen
class Asked:
    """What a request has of which side; None for what both of them take, or what it has not.

    The order of these is that in which a daemon looks at them.
    """

    address: Side | None = None
    token: Side | None = None
    key: Side | None = None
    authentication: Side | None = None
    chain: Side | None = None

    def answer(self, side: Side, good: str) -> str:
        """What comes of it under one configuration: `good`, or what it is refused for."""
        for name in ("address", "token", "key", "authentication", "chain"):
            wanted = getattr(self, name)
            if wanted is not None and wanted is not side:
                return name
        return good


@define
class Report:
    """What a run has seen."""

    reloads: int = 0
    wrong: int = 0
    requests: int = 0
    spanning: int = 0
    """Requests during which one configuration replaced the other."""
    slowest: float = 0.0
    answers: Counter[str] = field(factory=Counter)
    findings: dict[str, set[str]] = field(
        factory=lambda: {name: set() for name in ("mixed", "failed", "unverified", "log")}
    )

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not, and everything did that has to be seen."""
        seen = {"signed", "keys", "address", "token", "key", "authentication", "chain"}
        return not any(self.findings.values()) and seen <= self.answers.keys() and self.spanning > 0

    def show(self, seed: int) -> None:
        """Print everything."""
        print(f"seed {seed}: {self.reloads} reloads, {self.wrong} of wrong configurations")
        answers = ", ".join(f"{count} {name}" for name, count in sorted(self.answers.items()))
        print(f"{self.requests} requests ({self.spanning} during a change): {answers}")
        print(f"slowest answer: {self.slowest * 1000:.0f} ms")
        tell(self.findings)


class HttpConversation(Protocol):
    """One connection, on which one HTTP request follows the other."""

    transport: ITCPTransport

    def __init__(self) -> None:
        self._received = b""
        self._asking: Deferred[bytes] | None = None
        self._lost = False

    def ask(self, request: bytes) -> Deferred[bytes]:
        """Send a request; the whole response. Fails if the connection ends first."""
        asking = self._asking = Deferred[bytes]()
        if not self._lost:
            self.transport.write(request)
        self._deliver()
        return asking

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        self._deliver()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        self._deliver()

    def _deliver(self) -> None:
        head, end, body = self._received.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-len")]
        length = int(lengths[0].partition(b":")[2]) if end and lengths else None
        if self._asking is None:
            return
        if length is not None and len(body) >= length:
            asking, self._asking = self._asking, None
            whole = head + end + body[:length]
            self._received = body[length:]
            asking.callback(whole)
        elif self._lost:
            asking, self._asking = self._asking, None
            asking.errback(Failure(ConnectionClosed("the signer closed the connection")))


class Run:
    """A daemon, its clients, and which configurations can be in force."""

    def __init__(self, directory: Path, random: Random, report: Report) -> None:
        self.random = random
        self.report = report
        self._directory = directory
        self._hsm = directory / "hsm"
        self._side = A
        self._possible = frozenset((A,))
        self._open: list[set[Side]] = []
        self._calm: tuple[int, Deferred[None]] | None = None
        self.over = False
        self._number = 0

    async def carry_out(self, reloads: int, wrong: int) -> None:
        """Reload so many times, of which some are of wrong configurations."""
        sqlite.create(self._directory / "watermarks.sqlite")
        for side in (A, B):
            (self._directory / f"{side.name}.token").write_text(side.token)
        self._write(self._side.text(self._hsm))
        firmware = Firmware(enabled=EVERY_MAGIC_BYTE)
        simulator = Simulator(reactor, firmware, LATENCY, str(self._hsm))
        simulator.startService()
        daemon = spawn_daemon(self._directory, "--http", FREE_PORT, "--octez-socket", FREE_PORT)
        try:
            self.http = (await serving(daemon)).port
            port = await daemon.says(r"OctezSocketFactory starting on (\d+)\n")
            self.socket = int(port[1])
            clients = [
                Deferred.fromCoroutine(client.work())
                for client in (
                    *(HttpClient(self, stays) for stays in (True, False)),
                    *(SocketClient(self, stays) for stays in (True, False)),
                    *(Baker(self, name) for name in ("block", "preatt", "att_dal_5")),
                )
            ]
            try:
                await self._replace(daemon, reloads, wrong)
            finally:
                self.over = True
            await gatherResults(clients)
            daemon.send("TERM")
            code = await daemon.exits()
            self._look_at(daemon)
            if code != 0:
                self.report.findings["log"].add(f"the daemon ended with {code}: {daemon.log}")
        finally:
            await daemon.kill()
            simulator.stopService()

    async def _replace(self, daemon: Process, reloads: int, wrong: int) -> None:
        order = [True] * wrong + [False] * (reloads - wrong)
        self.random.shuffle(order)
        for is_wrong in order:
            self._calm = CALM, Deferred()
            await self._calm[1]
            self._look_at(daemon)
            if is_wrong:
                self._write(self._wrong_text())
                await self._hang_up(daemon, "the configuration stays as it was, since ")
                self.report.wrong += 1
            else:
                other = B if self._side is A else A
                self._become(self._side, other)
                self._write(other.text(self._hsm))
                await self._hang_up(daemon, "the signer goes by ")
                self._side = other
                self._become(other)
            self.report.reloads += 1

    async def _hang_up(self, daemon: Process, says: str) -> None:
        """Have the daemon read its configuration, and wait for what it says of it."""
        daemon.send("HUP")
        said = await daemon.says("SIGHUP: (.*)\n").addTimeout(PATIENCE, reactor)
        if not said[1].startswith(says):
            self.report.findings["log"].add(f"said {said[1]}, and not {says}")

    def _look_at(self, daemon: Process) -> None:
        """See that nothing is amiss in the log so far, and begin another one."""
        for word in ("Traceback", "Unhandled", " critical ", "fault"):
            if word in daemon.log:
                self.report.findings["log"].add(daemon.log)
        daemon.log = ""

    def _write(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        (self._directory / "config.yaml").write_bytes(data)

    def _wrong_text(self) -> bytes:
        """The other configuration, with something wrong in it."""
        other = B if self._side is A else A
        text = other.text(self._hsm)
        policy = text.index("policy:")
        return self.random.choice(
            [
                text[: self.random.randrange(policy)].encode(),  # as an editor leaves it
                f"{text}verbos: True\n".encode(),
                text.replace(other.address, "localhost").encode(),
                text.replace(".token", ".nothing").encode(),
                text.replace("[generic]", "[transfer]").encode(),
                text.replace("policy:", "\tpolicy:").encode(),
                f"{text}listen: {{htp: []}}\n".encode(),
                f"{text}limits: {{connections: 0}}\n".encode(),
                text.encode() + b"\xff",
            ]
        )

    def _become(self, *sides: Side) -> None:
        """Take note of which configurations can be in force now."""
        self._possible = frozenset(sides)
        for under_way in self._open:
            under_way |= self._possible

    @contextmanager
    def during(self) -> Iterator[set[Side]]:
        """The configurations of which each could be in force while a request is served."""
        possible = set(self._possible)
        self._open.append(possible)
        try:
            yield possible
        finally:
            self._open = [each for each in self._open if each is not possible]

    def number(self) -> int:
        """Another one each time."""
        self._number += 1
        return self._number

    def judge(self, asked: Asked, good: str, answered: str, possible: set[Side]) -> None:
        """Hold an answer against those that the configurations give."""
        self.report.requests += 1
        self.report.answers[answered.partition(" ")[0]] += 1
        self.report.spanning += len(possible) > 1
        expected = {asked.answer(side, good.format(side=side)) for side in possible}
        if answered not in expected:
            kind = "failed" if answered.startswith("failed") else "mixed"
            names = {name: side and side.name for name, side in _facts(asked).items()}
            in_force = " or ".join(sorted(side.name for side in possible))
            self.report.findings[kind].add(
                f"{answered}, and not {' or '.join(sorted(expected))}, for {names} under {in_force}"
            )
        if self._calm is not None:
            left, calm = self._calm
            self._calm = (left - 1, calm) if left > 1 else None
            if self._calm is None:
                calm.callback(None)


def _facts(asked: Asked) -> dict[str, Side | None]:
    return {name: getattr(asked, name) for name in Asked.__annotations__}


class RunClient:
    """One that asks again and again.

    :param stays: whether it stays connected.
    """

    kind: type[Protocol]

    def __init__(self, run: Run, stays: bool) -> None:
        self._run = run
        self._random = run.random
        self._stays = stays
        self._address: Side | None = None
        self._connection: Any = None

    async def work(self) -> None:
        """Ask until the run is over."""
        while not self._run.over:
            with self._run.during() as possible:
                began = reactor.seconds()
                asked, good, answered = await self._one()
                took = reactor.seconds() - began
                self._run.report.slowest = max(self._run.report.slowest, took)
                self._run.judge(asked, good, answered, possible)
        self._hang_up()

    async def _one(self) -> tuple[Asked, str, str]:
        raise NotImplementedError

    def _some(self, *names: str) -> Asked:
        """What is asked: in half of all cases all of one side, else mixed."""
        side = self._random.choice((A, B))
        whole = self._random.random() < 0.5
        facts = {name: side if whole else self._random.choice((A, B)) for name in names}
        if self._connection is None:
            self._address = self._random.choice((None, None, None, side))
        return Asked(address=self._address, **facts)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.transport.loseConnection()
            self._connection = None

    async def _say(self, port: int, request: bytes) -> bytes | None:
        """The answer to a request; None if the connection was closed without one."""
        address = self._address.address if self._address else _EVERYBODY
        try:
            if self._connection is None:
                endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port, 5, (address, 0))
                self._connection = await connectProtocol(endpoint, self.kind())
            answer: bytes = await self._connection.ask(request)
        except (ConnectError, ConnectionClosed):
            self._hang_up()
            return None
        if not self._stays or self._random.random() < 0.02:
            self._hang_up()
        return answer

    def _verified(self, key: PublicKeyHash, payload: bytes, signature: str) -> str:
        """What comes of a signature, which has to be right."""
        if not verifies(_PUBLIC_KEYS[str(key)], payload, signature):
            self._run.report.findings["unverified"].add(f"{signature} for {payload.hex()}")
        return "signed"


class HttpClient(RunClient):
    """Asks for generic operations and known keys over HTTP."""

    kind = HttpConversation

    async def _one(self) -> tuple[Asked, str, str]:
        if self._random.random() < 0.2:
            asked = self._some("token")
            return asked, "keys of {side.name}", await self._http(asked, "GET", "/known_keys")
        asked = self._some("token", "key")
        assert asked.key is not None
        key, payload = asked.key.key, noop(self._run.number())
        return asked, "signed", await self._http(asked, "POST", f"/keys/{key}", key, payload)

    async def _http(
        self,
        asked: Asked,
        method: str,
        path: str,
        key: PublicKeyHash = TZ3,
        payload: bytes | None = None,
    ) -> str:
        assert asked.token is not None
        body = b"" if payload is None else hex_body(payload)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: h\r\n{_HEADER}: {asked.token.token}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        received = await self._say(self._run.http, head.encode() + body)
        if received is None:
            return "address" if asked.address else "failed: closed"
        answer = parse_response(received, method)
        text = answer.body.decode()
        if answer.headers.get("connection") == "close":
            self._hang_up()
        if answer.status == 200:
            said = json.loads(text)
            if payload is not None:
                return self._verified(key, payload, said["signature"])
            sides = {str(side.key): side.name for side in (A, B)}
            return f"keys of {' and '.join(sides[key] for key in said['known_keys'][:-1])}"
        return _refusal(answer.status, text)


class Baker(HttpClient):
    """Asks for blocks, or for attestations, at rising levels.

    :param name: of the payload.
    """

    def __init__(self, run: Run, name: str) -> None:
        super().__init__(run, stays=True)
        self._name = name

    async def _one(self) -> tuple[Asked, str, str]:
        asked = self._some("token", "authentication", "chain")
        assert asked.chain is not None
        assert asked.authentication is not None
        level = self._run.number()
        made = block(level, 0) if self._name == "block" else consensus(self._name, level, 0)
        payload = made[:1] + asked.chain.chain + made[5:]
        proof = asked.authentication.wallet.authenticate(str(TZ3), payload)
        path = f"/keys/{TZ3}?authentication={proof}"
        return asked, "signed", await self._http(asked, "POST", path, TZ3, payload)


class SocketClient(RunClient):
    """Asks for generic operations over a socket."""

    kind = Conversation

    async def _one(self) -> tuple[Asked, str, str]:
        asked = self._some("key")
        assert asked.key is not None
        key, payload = asked.key.key, noop(self._run.number())
        received = await self._say(self._run.socket, octezsocket.sign(str(key), payload))
        if received is None:
            return asked, "signed", "address" if asked.address else "failed: closed"
        try:
            signature = octezsocket.signature_in(octezsocket.result_in(received), str(key))
        except OctezSocketError as refused:
            answered = _refusal(0, str(refused))
            if answered == "address":
                self._hang_up()
            return asked, "signed", answered
        return asked, "signed", self._verified(key, payload, signature)


_WORDS = {
    "is not among allowed_ips": "address",
    "request token": "token",
    "no keys for the source contract": "key",
    "authentication signature": "authentication",
    "is not allowed for": "chain",
}


def _refusal(status: int, text: str) -> str:
    """What a request was refused for."""
    found = [name for words, name in _WORDS.items() if words in text]
    return found[0] if found else f"failed: {status} {text}"


async def campaign(reloads: int, wrong: int, seed: int, directory: Path) -> Report:
    """Reload so many times, of which some are of wrong configurations."""
    report = Report()
    directory.mkdir(parents=True, exist_ok=True)
    await Run(directory, Random(seed), report).carry_out(reloads, wrong)
    return report


def main() -> None:
    """Run it, and exit with 1 if something was decided by halves or failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reloads", type=int, default=200)
    parser.add_argument("--wrong", type=int, help="of these [default: a quarter]")
    parser.add_argument("--seed", type=int, default=Random().randrange(2**32))
    options = parser.parse_args()
    wrong = options.reloads // 4 if options.wrong is None else options.wrong
    carry_out(
        lambda directory: campaign(options.reloads, wrong, options.seed, directory), options.seed
    )


if __name__ == "__main__":
    main()
