"""All connected HSMs, used as one: which board is asked for each signature, and when."""

from bisect import insort
from collections.abc import Callable
from functools import partial

from attrs import frozen
from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.errors import Forbidden, Refused, Unavailable
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.device import HsmDevice
from tezio_signer.hsm.discovery import NOTHING_EXPECTED, Discovery, Expected
from tezio_signer.hsm.exchange import Conversation, NoAnswer, Ports, WrongAnswer
from tezio_signer.hsm.framing import Status, StatusReply
from tezio_signer.hsm.nonces import Nonces
from tezio_signer.hsm.signing import Payload, Priority, Signing, State
from tezio_signer.noop import do_nothing
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature

_REMEMBERED_UNCLEAR = 64


@frozen
class HsmOptions:
    """How requests wait for boards, and what boards are to be.

    :ivar patience: seconds that a request waits for an HSM to be plugged in again.
    :ivar most_waiting: how many requests of one priority may wait for one board.
    """

    patience: float = 2.0
    most_waiting: int = 64
    expected: Expected = NOTHING_EXPECTED


_DEFAULT_OPTIONS = HsmOptions()


class HsmPool(Service):
    """The boards that are or were plugged in, used as one.

    Boards that hold the same key share its signatures out between them, and take over
    from each other: a payload that the watermark allows may be signed by any of them.

    All signatures under way (see `signing.py`) wait in one queue, by priority and then as
    they came. Whenever a board becomes free or ready, or is lost, each that waits is looked at
    in this order: it goes to a free board that may be asked for it, or it goes on waiting, with
    patience while there is none, or it ends, for want of any that may ever be asked.

    What holds, and has a test each:

    1. No board is free while a signature waits for which it may be asked (`test_least_busy`).
    2. Of those that wait, the most urgent goes first (`test_urgent_first`), also one that was
       asked for before.
    3. What repeats a nonce is given to nobody, and its key signs no more (`NonceTests`).
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, ports: Ports, options: HsmOptions = _DEFAULT_OPTIONS
    ) -> None:
        self._clock = clock
        self._options = options
        self._discovery = Discovery(clock, ports, options.expected, self._boards_changed)
        self._changes: list[Deferred[None]] = []
        self._public_keys: dict[PublicKeyHash, PublicKey] = {}
        self._nonces = Nonces()
        self._under_way: list[Signing] = []
        self._unclear: dict[Payload, set[Conversation]] = {}

    @property
    def devices(self) -> dict[str, HsmDevice]:
        """The boards by name."""
        return self._discovery.devices

    def go_by(self, options: HsmOptions) -> None:
        """Let requests that begin to wait from now on wait so, and say what is missing now."""
        self._options = options
        self._discovery.expect(options.expected)

    def startService(self) -> None:
        super().startService()
        self._discovery.startService()

    def stopService(self) -> None:
        super().stopService()
        self._discovery.stopService()
        self._boards_changed()  # whoever waits for one waits in vain

    def _boards_changed(self) -> None:
        for device in self.devices.values():
            for key in device.keys.values():
                self._public_keys[key.hash] = key
        self._share_out()
        changes, self._changes = self._changes, []
        for change in changes:
            change.callback(None)

    async def changed(self, seconds: float) -> bool:
        """Wait until a device became ready or was lost; False when the time is over."""
        change: Deferred[None] = Deferred(self._changes.remove)
        self._changes.append(change)
        try:
            await change.addTimeout(seconds, self._clock)
        except defer.TimeoutError:
            return False
        return True

    async def public_key(self, key: PublicKeyHash) -> PublicKey:
        """The public key of an address, waiting for an HSM with it if none has been seen.

        :raises Unavailable: if none with this key is plugged in in time.
        """
        until = self._clock.seconds() + self._options.patience
        while key not in self._public_keys:
            left = until - self._clock.seconds()
            if left <= 0 or not await self.changed(left) or not self.running:
                raise self._discovery.nobody_holds(key)
        return self._public_keys[key]

    def sign(
        self,
        key: PublicKeyHash,
        message: bytes,
        priority: Priority = Priority.OTHER,
        late: Callable[[Signature], object] = do_nothing,
    ) -> Signing:
        """Have a message signed by whichever HSM holds the key.

        :param late: called with the signature when it comes after the result has failed.
        """
        signing = Signing(key, message, priority, late)
        insort(self._under_way, signing, key=lambda other: other.priority)
        signing.result.addBoth(self._ended, signing)
        self._serve(signing)
        if signing.waits:
            self._limit(signing)
        return signing

    def _ended(self, result: Signature | Failure, signing: Signing) -> Signature | Failure:
        self._under_way.remove(signing)
        return result

    def _limit(self, signing: Signing) -> None:
        """End one for whose boards too many wait already.

        Each kind has its own room: transfers must not keep blocks out.
        """
        boards = self._boards_of(signing.key)
        # What may go to another board as well does not fill the room of these.
        waiting = [
            other
            for other in self._under_way
            if other.waits
            and other.priority is signing.priority
            and all(board in boards for board in self._boards_of(other.key))
        ]
        if boards and len(waiting) > self._options.most_waiting * len(boards):
            names = ", ".join(str(device.board) for device in boards)
            sentence = f"{len(waiting) - 1} requests wait for the HSM {names} already"
            signing.end(Failure(Unavailable(sentence)))

    def _boards_of(self, key: PublicKeyHash) -> list[HsmDevice]:
        """The boards that hold a key: those that are ready, if there are any."""
        holders = [device for device in self.devices.values() if device.slot_of(key)]
        return [device for device in holders if device.ready] or holders

    def _share_out(self) -> None:
        """Look again at all that wait: a board is free, ready or lost."""
        for signing in tuple(self._under_way):
            if signing.waits:
                self._serve(signing)

    def _serve(self, signing: Signing) -> None:
        """Ask a free board for it, or let it wait, or end it, as it is now."""
        try:
            self._nonces.check_key(signing.key)
        except Forbidden:
            signing.end(Failure())
            return
        able = self._able(signing)
        if not signing.waits:  # a board that was found lost just now has let another be asked
            return
        free = next((device for device in able if device.free), None)
        if free is not None:
            Deferred.fromCoroutine(self._ask(free, signing))
        elif able:
            signing.be_patient(None)
        elif not self.running or not self._may_come(signing):
            self._give_up(signing)
        elif signing.patience is None:
            signing.be_patient(
                self._clock.callLater(self._options.patience, self._give_up, signing)
            )

    def _able(self, signing: Signing) -> list[HsmDevice]:
        """The ready boards that may be asked for it: those not asked before, if there are any."""
        able = [
            device
            for device in self.devices.values()
            if device.slot_of(signing.key)
            and signing.may_ask(device.connection)
            and device.usable()
        ]
        unclear = self._unclear.get(signing.payload, ())
        return [device for device in able if device.connection not in unclear] or able

    def _may_come(self, signing: Signing) -> bool:
        """Whether waiting may help: a board that was asked already is as it was."""
        known = [device for device in self.devices.values() if device.slot_of(signing.key)]
        return not known or any(signing.may_ask(device.connection) for device in known)

    def _give_up(self, signing: Signing) -> None:
        signing.end(Failure(signing.failure or self._discovery.nobody_holds(signing.key)))

    async def _ask(self, device: HsmDevice, signing: Signing) -> None:
        """Ask a board, and have the next one asked before anybody hears what came of it."""
        slot, connection = device.slot_of(signing.key), device.connection
        assert slot is not None
        assert connection is not None
        signing.sent(asked_before=signing.payload in self._unclear)
        outcome: Signature | Failure | None = None
        try:
            late = partial(self._late, signing, device.board)
            outcome = await device.sign(slot, signing.message, late)
            self._nonces.check(signing.key, signing.message, outcome)
        except (NoAnswer, StatusReply) as error:
            self._not_signed(signing, connection, error)
        except Exception:  # a repeated nonce, or a fault of ours: whoever asked is told
            outcome = Failure()
        self._share_out()
        if isinstance(outcome, Failure) and signing.state is State.DONE:
            # A late signature has ended it, so nobody else hears of a fault.
            if not outcome.check(Refused):
                self._log.failure("fault while signing for {key}", outcome, key=signing.key)
        elif outcome is not None:
            signing.end(outcome, device.board)

    def _not_signed(self, signing: Signing, connection: Conversation, error: Exception) -> None:
        if isinstance(error, WrongAnswer):
            self._log.critical("{error}", error=error)
        # It may have signed, and then says D4 when it is asked again: others are better. When
        # it is D4 that it says, it has not; its mark may have moved by any other status.
        if not (isinstance(error, StatusReply) and error.status is Status.WATERMARK):
            self._unclear.setdefault(signing.payload, set()).add(connection)
            if len(self._unclear) > _REMEMBERED_UNCLEAR:
                del self._unclear[next(iter(self._unclear))]
        signing.not_signed(connection, error)

    def _late(self, signing: Signing, board: Board, signature: Signature) -> None:
        """A signature has come after its command was given up: who still waits, gets it."""
        try:
            self._nonces.check(signing.key, signing.message, signature)
        except Forbidden:
            return
        had_ended = signing.state is State.DONE
        for waiting in tuple(self._under_way):
            if waiting.payload == signing.payload:
                waiting.end(signature, board)
        if had_ended:
            signing.late(signature)
