"""Judges what clients receive, and what is in the store, by the rules that must not break."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

from attrs import define, field, frozen

from tests.campaigns.histories.keys import PUBLIC_KEYS, Cryptography
from tests.campaigns.signing import Asked
from tezio_signer.errors import Conflict, Refused
from tezio_signer.tezos.keys import PublicKey, Signature
from tezio_signer.watermarks.rule import NO_PAYLOAD, Mark, MarkId

_Place = tuple[MarkId, tuple[int, int]]
_CONFLICT = "Conflict with a mark"


@frozen
class Violation:
    """A rule that was broken.

    :ivar rule: one of a few, by which violations are compared.
    :ivar what: how it was broken.
    """

    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


@define
class Figures:
    """What has happened in many histories."""

    histories: int = 0
    steps: int = 0
    released: int = 0
    refusals: Counter[str] = field(factory=Counter)
    events: Counter[str] = field(factory=Counter)

    @property
    def conflicts(self) -> int:
        """Requests that were refused because a mark of the signer forbids them."""
        return self.refusals[_CONFLICT]

    def add(self, other: "Figures") -> None:
        """Count those of another history too."""
        self.histories += other.histories
        self.steps += other.steps
        self.released += other.released
        self.refusals += other.refusals
        self.events += other.events


class Referee:
    """Looks on at one history.

    :ivar lenient: the store has lost what was in it, or is not there: what was released before
        is not in it for the time being.
    :ivar asked: every payload that was asked for, by its hash.
    :ivar released: the signature that was received for each payload at each position.
    """

    def __init__(self, cryptography: Cryptography, marks: Callable[[], Mapping[MarkId, Mark]]):
        self._cryptography = cryptography
        self._marks = marks
        self._stored: Mapping[MarkId, Mark] = {}
        self.lenient = False
        self.violations: list[Violation] = []
        self.asked: dict[tuple[MarkId, bytes], Asked] = {}
        self.released: dict[_Place, dict[bytes, Signature]] = defaultdict(dict)
        self.figures = Figures()

    def violated(self, rule: str, what: object) -> None:
        """Note that a rule was broken."""
        self.violations.append(Violation(rule, str(what)))

    def asks(self, asked: Asked) -> None:
        """A client asks for a signature."""
        self.asked[asked.mark_id, asked.hash] = asked

    def refused(self, asked: Asked, error: BaseException) -> None:
        """A client was told that it does not get one."""
        kind = type(error).__name__
        if isinstance(error, Conflict):
            kind = "Conflict at the HSM" if "HSM" in str(error) else _CONFLICT
        self.figures.refusals[kind] += 1
        if not isinstance(error, Refused) or error.status == Refused.status:
            self.violated("a fault", f"{error!r} for {short(asked)}")

    def signed(self, daemon: str, asked: Asked, signature: Signature) -> None:
        """A client received a signature."""
        self.figures.released += 1
        key: PublicKey = PUBLIC_KEYS[asked.mark_id.key]
        if not self._cryptography.verifies(key, asked.data, signature):
            self.violated("does not verify", f"{daemon} released it for {short(asked)}")
        at = self.released[asked.mark_id, asked.position]
        first = at.setdefault(asked.hash, signature)
        if len(at) > 1:
            self.violated("two payloads", f"{daemon} is the second to sign at {short(asked)}")
        if first != signature:
            self.violated("two signatures", f"{daemon} released the second of {short(asked)}")
        if not self.lenient:
            self._check_covered(asked, signature, self._marks())

    def _check_covered(
        self,
        asked: Asked,
        signature: Signature,
        marks: Mapping[MarkId, Mark],
        closed: bool = False,
    ) -> None:
        """Check that a signature is stored, or below what is; or that its position is closed."""
        mark = marks.get(asked.mark_id)
        covered = mark is not None and (
            mark.position > asked.position
            or (mark.payload_hash == asked.hash and mark.signature == signature)
            or (closed and mark.position == asked.position and mark.payload_hash == NO_PAYLOAD)
        )
        if not covered:
            stored = mark and f"{mark.level}/{mark.round} {mark.payload_hash.hex()[:4]}"
            self.violated("above the store", f"{short(asked)} was released, {stored} is stored")

    def store_changed(self) -> None:
        """Something was written to the store."""
        marks = self._marks()
        for mark_id, mark in marks.items():
            before = self._stored.get(mark_id)
            if before != mark:
                self._check_written(mark_id, before, mark)
        self._stored = marks

    def store_replaced(self) -> None:
        """Somebody has put another state in the place of the store's."""
        self._stored = self._marks()

    def _check_written(self, mark_id: MarkId, before: Mark | None, mark: Mark) -> None:
        if mark.signature is not None:
            asked = self.asked.get((mark_id, mark.payload_hash))
            key = PUBLIC_KEYS[mark_id.key]
            if asked is None or not self._cryptography.verifies(key, asked.data, mark.signature):
                self.violated("stored, does not verify", f"{mark.level}/{mark.round}")
        if before is None or self.lenient:
            return
        same = mark.position == before.position
        if (
            mark.position < before.position
            or (same and mark.payload_hash != before.payload_hash)
            or (same and before.signature not in (None, mark.signature))
        ):
            self.violated(
                "the store steps back",
                f"from {before.level}/{before.round} to {mark.level}/{mark.round}",
            )

    def check_all_covered(self) -> None:
        """Whatever was released has to be in the store, when it has had time to get there."""
        marks = self._marks()
        for (mark_id, _), signatures in self.released.items():
            for payload_hash, signature in signatures.items():
                # An operator may have closed the position in an older backup.
                self._check_covered(self.asked[mark_id, payload_hash], signature, marks, True)

    def is_highest(self, asked: Asked) -> bool:
        """Whether no daemon can have claimed the mark for anything else at or above a payload."""
        return not any(
            mark_id == asked.mark_id and other.position >= asked.position and other != asked
            for (mark_id, _), other in self.asked.items()
        )

    def standing(self) -> list[tuple[Asked, Signature]]:
        """The payloads that have a signature and are in the store: it is given for ever."""
        found = []
        for mark_id, mark in self._marks().items():
            asked = self.asked.get((mark_id, mark.payload_hash))
            if asked is not None and mark.payload_hash != NO_PAYLOAD and mark.signature is not None:
                found.append((asked, mark.signature))
        return found


def short(asked: Asked) -> str:
    """A payload in a few words."""
    return (
        f"{asked.mark_id.operation} {asked.level}/{asked.round} {asked.hash.hex()[:4]} of "
        f"{str(asked.mark_id.key)[:3]}"
    )
