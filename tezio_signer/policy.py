"""Who may ask, and who may have what signed: the rules of a configuration, in their order.

To add a rule, write a function in `rules/` and name it in one of the three lists of `policy_of`.
"""

import time
from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tezio_signer.config.settings import Settings
from tezio_signer.errors import NotAdmitted, Refused
from tezio_signer.rates import Rate
from tezio_signer.request import Admitted, Peer, SigningRequest
from tezio_signer.rules.access import (
    FindKey,
    address_wanted,
    allowed_address,
    allowed_user,
    authenticated,
    authentication_wanted,
    key_wanted,
    known_key,
    user_wanted,
)
from tezio_signer.rules.generic import Now, contents_rules
from tezio_signer.rules.operations import (
    allowed_chain,
    allowed_operation,
    chain_wanted,
    fitting_the_device,
    operation_wanted,
    size_wanted,
)
from tezio_signer.rules.perday import per_day
from tezio_signer.rules.rate import rate_wanted, within_rate
from tezio_signer.rules.rule import Admission, Check, Grant, Reservation, Rule
from tezio_signer.rules.verdict import Asking, Stage, Verdict
from tezio_signer.rules.watermark import claimed, mark_wanted
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.claims import Watermarks

_Ask = TypeVar("_Ask", Admission, Check, Reservation)
_KEY = "key"


@frozen
class Policy:
    """All rules of a configuration: they are replaced together, and never one by one.

    Those that are switched off are among them, and are not asked.
    """

    admissions: tuple[Rule[Admission], ...] = ()
    checks: tuple[Rule[Check], ...] = ()
    reservations: tuple[Rule[Reservation], ...] = ()

    def admit(self, peer: Peer) -> Admitted:
        """The peer as one that may ask; raises NotAdmitted for one that may ask nothing."""
        for rule in _asked(self.admissions):
            try:
                rule.ask(peer)
            except NotAdmitted as refused:
                refused.by(rule.name)
                raise
        return Admitted(peer)

    def decide(self, request: SigningRequest) -> Deferred[Grant]:
        """Ask all rules about a request in turn; what was reserved for it.

        Fails with the `Refused` of the first that refuses, and keeps nothing reserved then.
        """
        grants: list[Grant] = []
        deciding: Deferred[Any] = succeed(None)
        for check in _asked(self.checks, request.payload.operation):
            deciding.addCallback(_ask, check, request)
        for reservation in _asked(self.reservations, request.payload.operation):
            deciding.addCallback(_ask, reservation, request)
            deciding.addCallback(grants.append)

        def take_back(failure: Failure) -> Failure:
            Grant.of(grants).take_back()
            return failure

        return deciding.addCallbacks(lambda _: Grant.of(grants), take_back)

    async def explain(
        self, peer: Peer, asked: SigningRequest | Refused, assumed: Mapping[str, str]
    ) -> list[Verdict]:
        """Ask every rule by itself, also behind one that refuses; in the order of `decide`.

        The first that refuses is the one by which `admit` or `decide` would have refused.
        Reservations take what they are asked for: this is for a policy on a copy of the store.

        :param asked: why the request cannot be read, if it cannot.
        :param assumed: names of rules that are not asked but count as passed, with the reasons.
        """
        asking = Asking(peer, asked, assumed)
        for admission in self.admissions:
            await asking.ask(Stage.ADMISSION, admission)
        asking.read()
        for check in self.checks:
            await asking.ask(Stage.CHECK, check)
        for reservation in self.reservations:
            await asking.ask(Stage.RESERVATION, reservation)
        return asking.verdicts


def _asked(rules: tuple[Rule[_Ask], ...], operation: Operation | None = None) -> list[Rule[_Ask]]:
    """The rules that are not switched off, and not about something else than this operation."""
    return [
        rule for rule in rules if rule.off is None and (rule.only is None or operation in rule.only)
    ]


def _ask(
    _: object, rule: Rule[Check] | Rule[Reservation], request: SigningRequest
) -> Deferred[Grant] | Deferred[None] | Grant | None:
    """Ask one rule; what it refuses has its name then."""
    try:
        answer = rule.ask(request)
    except Refused as refused:
        refused.by(rule.name)
        raise
    if isinstance(answer, Deferred):
        answer.addErrback(_name, rule.name)
    return answer


def _name(failure: Failure, rule: str) -> Failure:
    if isinstance(failure.value, Refused):
        failure.value.by(rule)
    return failure


def policy_of(
    settings: Settings,
    public_key: FindKey,
    watermarks: Watermarks,
    clock: IReactorTime,
    counted: Rate | None = None,
    now: Now = time.time,
) -> Policy:
    """The rules of a configuration, in the order in which they are asked.

    :param public_key: finds a key of the HSM.
    :param counted: what was counted under the configuration before this one.
    :param now: the seconds since 1970, by the clock on the wall.
    """
    security = settings.security
    per_minute = settings.limits.signatures_per_minute

    def unless_off(switch: str, rule: Rule[_Ask]) -> Rule[_Ask]:
        return rule if getattr(security, switch) else evolve(rule, off=f"security.{switch}")

    admissions: list[Rule[Admission]] = [
        unless_off(
            "remote_ip_check",
            Rule(
                "address",
                allowed_address(settings.allowed_ips),
                address_wanted(settings.allowed_ips),
            ),
        ),
        Rule("user", allowed_user(settings.allowed_uids), user_wanted(settings.allowed_uids)),
    ]
    checks: list[Rule[Check]] = [
        Rule(_KEY, known_key(settings), key_wanted),
        unless_off(
            "auth_check",
            Rule(
                "authentication",
                authenticated(settings, public_key),
                authentication_wanted(settings),
                (_KEY,),
            ),
        ),
        Rule("chain", allowed_chain(settings), chain_wanted(settings), (_KEY,)),
        unless_off(
            "signing_policy_check",
            Rule("operation", allowed_operation(settings), operation_wanted(settings), (_KEY,)),
        ),
        *contents_rules(settings, now),
        Rule("size", fitting_the_device, size_wanted),
    ]
    reservations: list[Rule[Reservation]] = []
    if per_minute:
        rate = Rate(per_minute, clock) if counted is None else counted.at_most(per_minute)
        reservations.append(Rule("rate", within_rate(rate), rate_wanted(rate), (_KEY,)))
    reservations.append(per_day(settings, watermarks.ledger))
    reservations.append(
        unless_off(
            "high_water_mark_check",
            Rule("watermark", claimed(settings, watermarks), mark_wanted(settings), (_KEY,)),
        )
    )
    return Policy(tuple(admissions), tuple(checks), tuple(reservations))
