"""Whether `explain` says what the daemon then does: `python -m tests.campaigns.explaining`.

A seed makes configurations, stores and payloads. Each request is first explained, on a copy of the
store, and then handed to the real signer with the real policy, on a board in this process. Both
have to sign or to refuse, and to refuse by the same rule, with the same status and the same
sentence. What `explain` takes for granted (a rate, an authentication that it was not given) is the
only thing by which the daemon may refuse otherwise, and only if no earlier rule does.
"""

import argparse
import sys
from collections import Counter
from datetime import UTC, time
from ipaddress import ip_network
from random import Random
from typing import Any

from attrs import define, evolve, field
from twisted.internet.task import Clock

from tests.campaigns.findings import Findings, tell
from tests.campaigns.randomoperations import ANYTHING, RandomOperations, forged
from tests.support.deciding import MAINNET, OTHER_CHAIN, WALLET, signed_by
from tests.support.fakeboard import FakeBoard, FakePorts
from tests.support.genericpayloads import (
    CONTRACT,
    OTHER,
    PROTOCOL,
    UNIT,
    ballot,
    drain_delegate,
    failing_noop,
    key_hash,
    manager,
    optional,
    payload,
    proposals,
    transaction_of,
)
from tests.support.octezclient import HSM_AUTH_KEY
from tests.support.recorder import Recorder
from tests.support.stores import MemoryStore
from tests.support.strategies import RECORDED
from tests.support.vectors import AUTH, OCTEZ, TZ1, TZ2, TZ3, block, consensus, noop
from tezio_signer.cli.explain import explain
from tezio_signer.cli.explanation import Explanation
from tezio_signer.config.operations import Destination, Hours, OperationRules
from tezio_signer.config.settings import Limits, Security, Settings, SigningKey
from tezio_signer.decision import Decision, Outcome
from tezio_signer.errors import NotAdmitted, Refused
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.noop import do_nothing
from tezio_signer.request import Admitted, Credentials, Listener, Peer, SigningRequest, Submission
from tezio_signer.signer import Signer
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash
from tezio_signer.tezos.operations import KINDS, STAKING
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.claims import Watermarks
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite.reading import Content

REQUESTS = 12
"""That come to one daemon, one after the other."""
_KEYS = (TZ1, TZ2, TZ3)
_UNKNOWN = PublicKeyHash.parse(OCTEZ["keys"][0]["pkh"])
_PEERS = ("127.0.0.1", "::1", "10.0.0.7", "192.0.2.1")
_NETWORKS = tuple(map(ip_network, ("127.0.0.1", "::1", "10.0.0.0/24")))
_USERS = (1000, 1001)
_LIKELY = ("transaction", "stake", "delegation", "ballot", "proposals", "reveal", "drain_delegate")
_SIGNED = (
    Operation.GENERIC,
    Operation.MICHELSON,
    Operation.BLOCK,
    Operation.PREATTESTATION,
    Operation.ATTESTATION,
)


@define
class Report:
    """What a run has found.

    :ivar refusals: how often each rule has refused at the daemon.
    """

    requests: int = 0
    signed: int = 0
    stored: int = 0
    assumed: int = 0
    refusals: Counter[str] = field(factory=Counter)
    differing: list[str] = field(factory=list)

    @property
    def findings(self) -> Findings:
        """What must not be there."""
        return {"explained otherwise": self.differing}

    def note(self, what: str, explanation: Explanation, decision: Decision) -> None:
        """Compare what was explained with what was decided."""
        self.requests += 1
        if decision.outcome is Outcome.SIGNED:
            self.signed += 1
            self.stored += decision.device is None
        else:
            self.refusals[decision.rule] += 1
            self.assumed += decision.rule in {verdict.rule for verdict in explanation.assumed}
        if why := disagreement(explanation, decision):
            self.differing.append(f"{what}: {why}")

    def show(self) -> None:
        """Print it."""
        print(
            f"{self.requests} requests: {self.signed} signed, {self.stored} of them from the store;"
            f" refused: {dict(self.refusals)}, {self.assumed} of them by what was taken for granted"
        )
        tell(self.findings)


def disagreement(explanation: Explanation, decision: Decision) -> str:
    """In what the two differ; empty if they agree."""
    refusal = explanation.refusal
    explained = (refusal.rule, refusal.refused.status, refusal.why) if refusal else None  # type: ignore[union-attr]
    if decision.outcome is Outcome.SIGNED:
        if explained is not None:
            return f"signed, and explained to be refused by {explained}"
        from_store = any(
            verdict.why.startswith("signed before") for verdict in explanation.verdicts
        )
        if from_store != (decision.device is None):
            return f"made by {decision.device}, and explained otherwise"
        return ""
    if decision.outcome is not Outcome.REFUSED:
        return f"ended as {decision.outcome}: {decision.failure}"
    decided = (decision.rule, decision.status, decision.sentence)
    if decided == explained:
        return ""
    names = [verdict.rule for verdict in explanation.verdicts]
    granted = [verdict.rule for verdict in explanation.assumed]
    if decision.rule in granted and (
        refusal is None or names.index(refusal.rule) > names.index(decision.rule)
    ):
        return ""
    return f"refused by {decided}, and explained to be {explained or 'signed'}"


class Chance:
    """Makes a configuration of a seed, and requests, some of them again."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._key_asked = TZ3
        self._asked: list[tuple[PublicKeyHash, bytes, Peer]] = []

    def settings(self) -> Settings:
        """A configuration, in which most rules let something pass and refuse something."""
        random = self._random
        keys = random.sample(_KEYS, random.randint(1, 3))
        return Settings(
            {key: self._key(key) for key in keys},
            auth_key=AUTH if self._often() else None,
            security=Security(*(random.random() > 0.15 for _ in range(4))),
            allowed_ips=_NETWORKS[: random.randint(1, 3)]
            if random.random() < 0.9
            else _NETWORKS[1:],
            allowed_uids=frozenset(_USERS[: random.randint(0, 2)])
            if random.random() < 0.2
            else None,
            authorized_keys=self._wallet() or (),
            floors={} if self._often() else {Operation.BLOCK: (102, 1)},
            limits=Limits(signatures_per_minute=None if self._often() else 2),
        )

    def _often(self) -> bool:
        return self._random.random() < 0.7

    def _wallet(self) -> tuple[PublicKey, ...] | None:
        if self._often():
            return None
        chosen = self._random.sample(WALLET, self._random.randint(0, 2))
        return tuple(PublicKey.parse(key.public_key) for key in chosen)

    def _key(self, key: PublicKeyHash) -> SigningKey:
        random = self._random
        operations = _SIGNED if self._often() else random.sample(_SIGNED, random.randint(0, 3))
        chains = None if self._often() else frozenset(random.sample((MAINNET, OTHER_CHAIN), 1))
        return SigningKey(
            key,
            frozenset(operations),
            auth_req=random.random() < 0.3,
            chains=chains,
            max_level_jump=random.choice((1, 5, 500_000)),
            authorized_keys=self._wallet(),
            operations=None if self._often() else self._rules(),
        )

    def _rules(self) -> OperationRules:
        """Rules on operations, a few of them."""
        random = self._random
        named = random.sample(sorted(KINDS | STAKING), 20)
        chosen: dict[str, Any] = {
            "kinds": frozenset((*named, *random.sample(_LIKELY, 4))),
            "destinations": random.choice(
                ((), (Destination(OTHER),), (Destination(OTHER), Destination(CONTRACT, "do")))
            ),
            "delegates": frozenset(random.sample((OTHER, str(TZ2)), random.randint(0, 2))),
            "proposals": frozenset([PROTOCOL][: random.randint(0, 1)]),
            "ballots": frozenset(random.sample(("yay", "nay", "pass"), random.randint(0, 3))),
            "max_amount": random.choice((0, 1_000_000, 5_000_000)),
            "max_fee": random.choice((404, 1_000)),
            "max_amount_per_day": random.choice((1_000_000, 3_000_000)),
            "max_operations_per_day": random.randint(1, 4),
            "hours": Hours(time(0, 0), time(12, 0), UTC)
            if random.random() < 0.5
            else Hours(time(12, 0), time(0, 0), UTC),
            "unknown": True,
        }
        names = random.sample(sorted(chosen), random.randint(0, 5))
        return OperationRules(**{name: chosen[name] for name in names})

    def peer(self) -> Peer:
        """Somebody who asks."""
        random = self._random
        if random.random() < 0.1:
            return Peer(credentials=Credentials(1, random.choice(_USERS), 1))
        return Peer.at(random.choice(_PEERS if random.random() < 0.15 else _PEERS[:1]))

    def payload(self) -> bytes:
        """Something to sign: often at levels and rounds that conflict, sometimes broken."""
        random = self._random
        level, round_ = random.randint(100, 104), random.randint(0, 2)
        made = random.choice(
            (
                lambda: block(level, round_, random.randint(0x40, 0x41)),
                lambda: consensus(random.choice(("preatt", "att", "att_dal_5")), level, round_),
                lambda: noop(random.randint(0, 3)),
                lambda: random.choice(RECORDED),
                self._operations,
                self._operations,
                self._any_group,
                lambda: b"\x05" + UNIT,
            )
        )()
        what = random.random()
        if what < 0.05:
            return made[: random.randrange(len(made))]
        if what < 0.1:
            changed = bytearray(made)
            changed[random.randrange(len(made))] = random.randrange(256)
            return bytes(changed)
        if what < 0.13:
            return made + bytes(random.choice((1, 976, 2000)))
        return made

    def _source(self) -> str:
        """The account of an operation, which usually is that of the key."""
        return str(self._key_asked if self._random.random() < 0.9 else TZ2)

    def _any_group(self) -> bytes:
        """A group of any kinds, of an account of ours if they have one."""
        group = RandomOperations(self._random, ANYTHING).group()
        source = self._source()
        for content in group["contents"]:
            if "source" in content:
                content["source"] = source
        return b"\x03" + forged(group)

    def _operations(self) -> bytes:
        """A group of what rules are about."""
        random = self._random
        source = self._source()
        amount = random.choice((0, 1, 1_000_000, 1_000_001, 4_000_000))
        fee = random.choice((404, 405, 2_000))

        def transaction() -> bytes:
            to = random.choice((OTHER, CONTRACT, str(TZ2), source))
            call = random.choice((None, None, "do", "stake", "transfer"))
            return transaction_of(source, amount, to, call=call, fee=fee)

        alone = (
            lambda: ballot(random.randint(0, 2), source=source),
            lambda: proposals(PROTOCOL, source=source),
            lambda: drain_delegate(source, str(TZ2), OTHER),
            lambda: failing_noop(b"hi"),
            lambda: (
                manager(0x6E, source=source, fee=fee)
                + optional(random.choice((None, key_hash(OTHER))))
            ),
        )
        if self._often():
            return payload(*(transaction() for _ in range(random.choice((1, 1, 2, 3)))))
        return payload(random.choice(alone)())

    def request(self, settings: Settings) -> tuple[PublicKeyHash, bytes, Peer]:
        """A request to sign, without authentication."""
        if self._asked and self._random.random() < 0.2:
            return self._random.choice(self._asked[-3:])
        known = self._random.choice([*settings.signing_keys])
        key = self._key_asked = known if self._random.random() < 0.95 else _UNKNOWN
        self._asked.append((key, self.payload(), self.peer()))
        return self._asked[-1]

    def authenticated(self, request: SigningRequest) -> SigningRequest:
        """The same with an authentication signature, which is often a good one."""
        if self._random.random() < 0.4:
            return request
        key = self._random.choice((HSM_AUTH_KEY, *WALLET))
        asked = request if self._often() else evolve(request, data=b"\x05other")
        return evolve(request, authentication=signed_by(key, asked).authentication)


class Daemon:
    """A signer on one board and a store in memory."""

    def __init__(self, settings: Settings) -> None:
        self.clock = Clock()
        self.board = FakeBoard()
        self.pool = HsmPool(
            self.clock,
            FakePorts(self.clock, lambda: [Board("port")], lambda p, _: self.board.open(p, "port")),
        )
        self.pool.startService()
        self.board.serve()
        self.store = MemoryStore({})
        self.watermarks = Watermarks(lambda: self.store, settings.floors, self.clock)
        self.watermarks.startService()
        self.recorder = Recorder()
        self.signer = Signer(settings, self.pool, self.watermarks, self.clock)
        self.signer.decisions.add(self.recorder)

    def stored(self) -> Content:
        """A copy of what is in the store."""
        marks: list[dict[MarkId, Mark]] = []
        self.store.load().addCallback(marks.append)
        spending = {key: dict(entries) for key, entries in self.store.spending.items()}
        return Content(marks[0], spending)

    def decide(self, key: PublicKeyHash, peer: Peer, asked: SigningRequest | Refused) -> Decision:
        """What becomes of a request."""
        self.board.firmware.power_cycle()  # its own watermarks know no chains
        self.recorder.seen.clear()
        try:
            whose = self.signer.admit(peer)
        except NotAdmitted as refused:
            return Decision("a connection", peer).refused(refused)
        submission = Submission(Admitted(whose), Listener.HTTP, str(key), asked)
        request = self.signer.submit(submission).addErrback(do_nothing)
        self.board.serve()
        assert request.called
        (decision,) = self.recorder.seen
        return decision

    def stop(self) -> None:
        """Stop everything."""
        self.pool.stopService()
        self.watermarks.stopService()


def campaign(requests: int, seed: int) -> Report:
    """Have so many requests explained and decided."""
    report = Report()
    number = 0
    while report.requests < requests:
        chance = Chance(Random(f"{seed}/{number}"))
        _one_daemon(report, chance, f"seed {seed}, daemon {number}")
        number += 1
    return report


def _one_daemon(report: Report, chance: Chance, name: str) -> None:
    settings = chance.settings()
    daemon = Daemon(settings)
    for number in range(REQUESTS):
        key, data, peer = chance.request(settings)
        asked: SigningRequest | Refused
        try:
            asked = chance.authenticated(SigningRequest.read(key, data, peer))
            authentication = asked.authentication
        except Refused as refused:
            asked, authentication = refused, None
        stored = daemon.stored()
        explanation = explain(settings, stored, key, data, peer, authentication)
        decision = daemon.decide(key, peer, asked)
        report.note(f"{name}, request {number} ({data.hex()})", explanation, decision)
    daemon.stop()


def main() -> None:
    """Run the campaign; exit with 1 if it found something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = campaign(options.requests, options.seed)
    report.show()
    sys.exit(1 if report.differing else 0)


if __name__ == "__main__":
    main()
