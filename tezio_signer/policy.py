"""Who may ask, and who may have what signed: the rules of a configuration, in their order.

To add a rule, write a function in `rules/` and name it in one of the three lists of `policy_of`.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tezio_signer.config.settings import Settings
from tezio_signer.rates import Rate
from tezio_signer.request import Admitted, Peer, SigningRequest
from tezio_signer.rules.access import (
    FindKey,
    allowed_address,
    allowed_user,
    authenticated,
    known_key,
)
from tezio_signer.rules.operations import allowed_chain, allowed_operation, fitting_the_device
from tezio_signer.rules.rule import Admission, Check, Grant, Reservation
from tezio_signer.rules.spending import within_rate
from tezio_signer.rules.watermark import claimed
from tezio_signer.watermarks.claims import Watermarks

_Rule = TypeVar("_Rule")


@frozen
class Policy:
    """All rules of a configuration: they are replaced together, and never one by one."""

    admissions: tuple[Admission, ...] = ()
    checks: tuple[Check, ...] = ()
    reservations: tuple[Reservation, ...] = ()

    def admit(self, peer: Peer) -> Admitted:
        """The peer as one that may ask; raises NotAdmitted for one that may ask nothing."""
        for rule in self.admissions:
            rule(peer)
        return Admitted(peer)

    def decide(self, request: SigningRequest) -> Deferred[Grant]:
        """Ask all rules about a request in turn; what was reserved for it.

        Fails with the `Refused` of the first that refuses, and keeps nothing reserved then.
        """
        grants: list[Grant] = []
        deciding: Deferred[Any] = succeed(None)
        for check in self.checks:
            deciding.addCallback(_ask, check, request)
        for reservation in self.reservations:
            deciding.addCallback(_ask, reservation, request)
            deciding.addCallback(grants.append)

        def take_back(failure: Failure) -> Failure:
            Grant.of(grants).undo()
            return failure

        return deciding.addCallbacks(lambda _: Grant.of(grants), take_back)


def _ask(_: object, rule: Check | Reservation, request: SigningRequest) -> object:
    return rule(request)


def policy_of(
    settings: Settings,
    public_key: FindKey,
    watermarks: Watermarks,
    clock: IReactorTime,
    rate: Rate | None = None,
) -> Policy:
    """The rules of a configuration, in the order in which they are asked.

    :param public_key: finds a key of the HSM.
    :param rate: what was counted under the configuration before this one.
    """
    security = settings.security
    per_minute = settings.limits.signatures_per_minute
    counted = rate or Rate(1, clock)
    admissions: list[tuple[bool, Admission]] = [
        (security.remote_ip_check, allowed_address(settings.allowed_ips)),
        (True, allowed_user(settings.allowed_uids)),
    ]
    checks: list[tuple[bool, Check]] = [
        (True, known_key(settings)),
        (security.auth_check, authenticated(settings, public_key)),
        (True, allowed_chain(settings)),
        (security.signing_policy_check, allowed_operation(settings)),
        (True, fitting_the_device),
    ]
    reservations: list[tuple[bool, Reservation]] = [
        *([(True, within_rate(counted.at_most(per_minute)))] if per_minute else []),
        (security.high_water_mark_check, claimed(settings, watermarks)),
    ]
    return Policy(_used(admissions), _used(checks), _used(reservations))


def _used(rules: Iterable[tuple[bool, _Rule]]) -> tuple[_Rule, ...]:
    return tuple(rule for is_used, rule in rules if is_used)
