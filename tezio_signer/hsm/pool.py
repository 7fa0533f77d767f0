"""All connected HSMs: found, kept in use, and chosen for each signature."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable

from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.config.settings import DEFAULT_PATIENCE, DEFAULT_WAITING
from tezio_signer.errors import Forbidden, Refused, Unavailable
from tezio_signer.hsm.boards import Board, BoardSelector, not_plugged_in, unmatched
from tezio_signer.hsm.device import HsmDevice, NotSent, OpenPort, Priority
from tezio_signer.hsm.framing import Status, StatusReply
from tezio_signer.hsm.heldkeys import Held, is_held, misplaced
from tezio_signer.hsm.nonces import Nonces
from tezio_signer.hsm.signing import Payload, Signing
from tezio_signer.hsm.slots import CURVES
from tezio_signer.serialhsm import (
    DEFAULT_TIMING,
    FRAME_REFUSALS,
    HsmProtocol,
    NoAnswer,
    Timing,
    WrongAnswer,
)
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature

FIRST_LOOK, SLOWEST_LOOK = 0.05, 0.5
"""Seconds between two looks for a board that is missing, first and at most."""
CALM_LOOK = 2.0
"""Seconds between two looks while every known board is in use."""
_REMEMBERED_UNCLEAR = 64


class HsmPool(Service):
    """The boards that are or were plugged in, used as one.

    Boards that hold the same key share its signatures out between them, and take over
    from each other: a payload that the watermark allows may be signed by any of them.

    :param find: the boards that are plugged in now.
    :param open_port: opens a port; raises SerialException, OSError or termios.error.
    :param wanted: the keys that the connected boards should hold; those missing are named.
    :param selectors: the boards of the configuration; those that are absent are named.
    :param auth_key: which of `wanted` belongs into slot 0.
    :param patience: seconds that a request waits for an HSM to be plugged in again.
    :param most_waiting: how many requests of one priority may wait for one board.
    :param watch: calls back whenever `find` may have something new to say; returns
        how to end that.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        find: Callable[[], list[Board]],
        open_port: OpenPort,
        watch: Callable[[Callable[[], object]], Callable[[], object]] | None = None,
        wanted: Iterable[PublicKeyHash] = (),
        patience: float = DEFAULT_PATIENCE,
        timing: Timing = DEFAULT_TIMING,
        verbose: bool = False,
        most_waiting: int = DEFAULT_WAITING,
        selectors: Iterable[BoardSelector] = (),
        auth_key: PublicKeyHash | None = None,
    ) -> None:
        self._reactor = reactor
        self._selectors = tuple(selectors)
        self._auth_key = auth_key
        self._absent: tuple[BoardSelector, ...] = ()
        self._patience = patience
        self._wanted = tuple(wanted)
        self._missing: tuple[PublicKeyHash, ...] = ()
        self._find = find
        self._open_port = open_port
        self._watch = watch
        self._timing = timing
        self._verbose = verbose
        self._most_waiting = most_waiting
        self._next_look: IDelayedCall | None = None
        self._delay = FIRST_LOOK
        self._changes: list[Deferred[None]] = []
        self._public_keys: dict[PublicKeyHash, PublicKey] = {}
        self._nonces = Nonces()
        self._under_way: dict[Payload, list[Signing]] = {}
        self._unclear: OrderedDict[Payload, set[HsmProtocol]] = OrderedDict()
        self.devices: dict[str, HsmDevice] = {}

    def startService(self) -> None:
        super().startService()
        self._end_watch = self._watch(self._look_soon) if self._watch else bool
        self._look()

    def stopService(self) -> None:
        super().stopService()
        self._end_watch()
        if self._next_look is not None:
            self._next_look.cancel()
        for device in self.devices.values():
            device.close()
        self._device_changed()  # whoever waits for one waits in vain

    # -- boards ------------------------------------------------------------------------

    def _look(self) -> None:
        self._next_look = None
        try:
            self._use_boards()
        except Exception:  # pyserial fails when a board vanishes while it looks at it
            self._log.failure("looking for boards failed")
            self._look_in(SLOWEST_LOOK)
        else:
            self._look_again()

    def _use_boards(self) -> None:
        found = self._find()
        boards = self._named(found)
        for name, board in boards.items():
            if name not in self.devices:
                self.devices[name] = HsmDevice(
                    self._reactor,
                    board,
                    self._open_port,
                    self._device_changed,
                    self._timing,
                    self._verbose,
                    self._most_waiting,
                )
            self.devices[name].plugged_in(board)
        for name in self.devices.keys() - boards.keys():
            self.devices[name].unplugged()
        self._name_absent(found)

    def _named(self, boards: Iterable[Board]) -> dict[str, Board]:
        """The boards by the names of their devices: a serial number, or else a port.

        A board keeps its device when it is plugged in elsewhere. Clones may say one serial
        number: those that are where they were are told from those that moved or came.
        """
        named: dict[str, Board] = {}
        others: list[Board] = []
        names = {(d.board.serial_number, d.board.port): name for name, d in self.devices.items()}
        for board in boards:
            name = names.get((board.serial_number, board.port))
            if name is None:
                others.append(board)
            else:
                named[name] = board
        for board in others:
            moved = [
                name
                for name, device in self.devices.items()
                if board.serial_number is not None
                and device.board.serial_number == board.serial_number
                and name not in named
            ]
            name = board.serial_number or board.port
            new = name if name not in named else f"{name} at {board.port}"
            named[moved[0] if moved else new] = board
        return named

    def _name_absent(self, boards: Collection[Board]) -> None:
        """Say which boards of the configuration are not there, at first and when one is lost."""
        absent = unmatched(self._selectors, boards)
        known, self._absent = self._absent, absent
        for selector in absent:
            if selector not in known:
                self._log.error("{sentence}", sentence=not_plugged_in(selector))

    def _look_again(self) -> None:
        self._name_missing()
        if all(device.ready for device in self.devices.values()):
            self._look_in(CALM_LOOK)
        else:
            self._look_in(self._delay)
            self._delay = min(2 * self._delay, SLOWEST_LOOK)

    def _look_soon(self) -> None:
        self._delay = FIRST_LOOK
        self._look_in(self._delay)

    def _look_in(self, delay: float) -> None:
        if not self.running:
            return
        if self._next_look is None:
            self._next_look = self._reactor.callLater(delay, self._look)
        elif self._next_look.getTime() > self._reactor.seconds() + delay:
            self._next_look.reset(delay)

    def _device_changed(self) -> None:
        for device in self.devices.values():
            for key in device.keys.values():
                self._public_keys[key.hash] = key
            if not device.ready:
                self._look_soon()
        if self.running:
            self._name_missing()
        changes, self._changes = self._changes, []
        for change in changes:
            change.callback(None)

    def _held(self) -> Held:
        return {str(d.board): d.keys for d in self.devices.values() if d.ready}

    def _name_missing(self) -> None:
        """Say which keys no board holds, when all boards have said theirs."""
        held = self._held()
        missing = tuple(key for key in self._wanted if not is_held(key, held, self._auth_key))
        if missing != self._missing and all(device.ready for device in self.devices.values()):
            self._missing = missing
            if missing:
                self._log.error(
                    "keys of the configuration that no connected HSM holds: {keys}",
                    keys=", ".join(map(self._missing_key, missing)),
                )

    def _missing_key(self, key: PublicKeyHash) -> str:
        why = misplaced(key, self._held(), self._auth_key)
        return f"{key} ({why})" if why else str(key)

    async def _change(self, until: float) -> bool:
        left = until - self._reactor.seconds()
        return left > 0 and await self.changed(left) and bool(self.running)

    async def changed(self, seconds: float) -> bool:
        """Wait until a device became ready or was lost; False when the time is over."""
        change: Deferred[None] = Deferred(self._changes.remove)
        self._changes.append(change)
        try:
            await change.addTimeout(seconds, self._reactor)
        except defer.TimeoutError:
            return False
        return True

    # -- keys and signatures -----------------------------------------------------------

    async def public_key(self, key: PublicKeyHash) -> PublicKey:
        """The public key of an address, waiting for an HSM with it if none has been seen.

        :raises Unavailable: if none with this key is plugged in in time.
        """
        until = self._reactor.seconds() + self._patience
        while key not in self._public_keys:
            if not await self._change(until):
                raise self._nobody_holds(key)
        return self._public_keys[key]

    def _nobody_holds(self, key: PublicKeyHash) -> Unavailable:
        silent = [
            device
            for device in self.devices.values()
            if device.present and not device.ready and device.holds(key)
        ]
        if silent:
            asked = "has been asked for its keys, and has not said them yet"
            return Unavailable(
                "; ".join(
                    f"the HSM {d.board}, which holds {key}, {d.trouble or asked}" for d in silent
                )
            )
        why = misplaced(key, self._held(), self._auth_key)
        troubles = [f"HSM {d.board}: {d.trouble}" for d in self.devices.values() if d.trouble]
        absent = [f"the board with the {selector} is not plugged in" for selector in self._absent]
        nobody = f"no connected HSM holds {key}" + (f": {why}" if why else "")
        left_out = [
            f"HSM {device.board}, slot {slot:d}: {trouble}"
            for device in self.devices.values()
            for slot, trouble in device.left_out.items()
            if CURVES[slot] is key.curve
        ]
        return Unavailable("; ".join([nobody, *troubles, *absent, *left_out]))

    def sign(
        self,
        key: PublicKeyHash,
        message: bytes,
        priority: Priority = Priority.OTHER,
        late: Callable[[Signature], object] = bool,
    ) -> Signing:
        """Have a message signed by whichever HSM holds the key.

        :param late: called with the signature when it comes after the result has failed.
        """
        signing = Signing(key, message, priority, late)
        self._under_way.setdefault(signing.payload, []).append(signing)
        Deferred.fromCoroutine(self._sign(signing)).addBoth(self._signed, signing)
        return signing

    def _signed(self, result: Signature | Failure, signing: Signing) -> None:
        same = self._under_way[signing.payload]
        same.remove(signing)
        if not same:
            del self._under_way[signing.payload]
        if (
            signing.result.called
            and isinstance(result, Failure)
            and not result.check(Refused, StatusReply)
        ):
            self._log.failure("fault while signing for {key}", result, key=signing.key)
        signing.end(result)

    async def _sign(self, signing: Signing) -> Signature:
        until = self._reactor.seconds() + self._patience
        while not signing.over:
            self._nonces.check_key(signing.key)
            device = self._device_for(signing)
            if device is None:
                if not self._may_come(signing) or not await self._change(until):
                    break
                continue
            try:
                return await self._sign_with(device, signing)
            except (NotSent, NoAnswer, StatusReply) as error:
                signing.failure = error
                until = self._reactor.seconds() + self._patience
        raise signing.failure or self._nobody_holds(signing.key)

    def _device_for(self, signing: Signing) -> HsmDevice | None:
        """Of the devices that may be asked, one not asked before, and the least busy of these."""
        unclear = self._unclear.get(signing.payload, set())
        able = [
            device
            for device in self.devices.values()
            if device.ready and device.slot_of(signing.key) and signing.may_ask(device.connection)
        ]
        return min(able, key=lambda d: (d.connection in unclear, d.load), default=None)

    def _may_come(self, signing: Signing) -> bool:
        """Whether waiting may help: a device that was asked already is as it was."""
        known = [device for device in self.devices.values() if device.slot_of(signing.key)]
        return not known or any(signing.may_ask(device.connection) for device in known)

    async def _sign_with(self, device: HsmDevice, signing: Signing) -> Signature:
        slot = device.slot_of(signing.key)
        assert slot is not None
        connection = device.connection
        assert connection is not None
        signing.device = device
        signing.asked_before = signing.payload in self._unclear
        signing.job = device.sign(
            slot,
            signing.message,
            signing.priority,
            lambda signature: self._late(signing, signature),
        )
        try:
            signature: Signature = await signing.job.result
        except WrongAnswer as error:
            self._log.critical("{error}", error=error)
            signing.was_refused(connection)
            self._remember(signing, connection)
            raise
        except NoAnswer:
            signing.was_unclear(connection)
            self._remember(signing, connection)
            raise
        except StatusReply as status:
            if status.status in FRAME_REFUSALS:  # it came to harm on the way
                signing.was_unclear(connection)
            else:
                signing.was_refused(connection)
            if status.status is not Status.WATERMARK:  # its mark may have moved all the same
                self._remember(signing, connection)
            raise
        finally:
            signing.sent = signing.sent or signing.job.sent
            signing.job = None
        self._nonces.check(signing.key, signing.message, signature)
        return signature

    def _remember(self, signing: Signing, connection: HsmProtocol) -> None:
        """A device was asked, and gave no signature: others are better, and it may say D4."""
        self._unclear.setdefault(signing.payload, set()).add(connection)
        if len(self._unclear) > _REMEMBERED_UNCLEAR:
            self._unclear.popitem(last=False)

    def _late(self, signing: Signing, signature: Signature) -> None:
        """A signature has come after its command was given up: who still waits, gets it."""
        try:
            self._nonces.check(signing.key, signing.message, signature)
        except Forbidden:
            return
        had_ended = signing.result.called
        for waiting in list(self._under_way.get(signing.payload, ())):
            waiting.end(signature)
        if had_ended:
            signing.late(signature)
