"""All connected HSMs: found, kept in use, and chosen for each signature."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from attrs import define, field
from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from tezio_signer.errors import Forbidden, Unavailable
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.framing import StatusReply
from tezio_signer.hsmdevice import HsmDevice, Job, NotSent, OpenPort, Priority
from tezio_signer.serialhsm import HsmProtocol, NoAnswer, Timing, WrongAnswer
from tezio_signer.settings import DEFAULT_PATIENCE, DEFAULT_WAITING
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature, digest

FIRST_LOOK, SLOWEST_LOOK = 0.05, 0.5
"""Seconds between two looks for a board that is missing, first and at most."""
CALM_LOOK = 2.0
"""Seconds between two looks while every known board is in use."""
_REMEMBERED_NONCES = 4096
_REMEMBERED_UNCLEAR = 64
_TIMING = Timing()


@define(eq=False)
class Signing:
    """A signature that was asked for.

    :ivar result: the signature; fails with `StatusReply` or a `Refused`.
    """

    key: PublicKeyHash
    message: bytes
    priority: Priority
    late: Callable[[Signature], object]
    result: Deferred[Signature] = field(init=False)
    withdrawn: bool = False
    tried: bool = False
    sent: bool = False
    used: set[HsmProtocol] = field(factory=set)
    device: HsmDevice | None = None
    job: Job | None = None

    @property
    def may_be_refused(self) -> bool:
        """Whether a device that has signed it refuses to do so again (its own watermark)."""
        return self.priority is not Priority.OTHER

    def withdraw(self) -> bool:
        """Nobody wants it any more: drop it, unless it has reached a device."""
        self.withdrawn = not self.sent
        if self.device is not None and self.job is not None:
            self.withdrawn = self.device.withdraw(self.job) and not self.sent
        return self.withdrawn


class HsmPool(Service):
    """The boards that are or were plugged in, used as one.

    Boards that hold the same key share its signatures out between them, and take over
    from each other: a payload that the watermark allows may be signed by any of them.

    :param find: the boards that are plugged in now.
    :param open_port: opens a port; raises SerialException, OSError or termios.error.
    :param wanted: the keys that the connected boards should hold; those missing are named.
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
        timing: Timing = _TIMING,
        verbose: bool = False,
        most_waiting: int = DEFAULT_WAITING,
    ) -> None:
        self._reactor = reactor
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
        self._nonces: dict[PublicKeyHash, OrderedDict[int, bytes]] = {}
        self._unclear: OrderedDict[
            tuple[PublicKeyHash, bytes], tuple[set[HsmProtocol], Exception]
        ] = OrderedDict()
        self._exposed: set[PublicKeyHash] = set()
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
        boards = {board.serial_number or board.port: board for board in self._find()}
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

    def _name_missing(self) -> None:
        """Say which keys no board holds, when all boards have said theirs."""
        devices = self.devices.values()
        held = {key.hash for device in devices if device.ready for key in device.keys.values()}
        missing = tuple(key for key in self._wanted if key not in held)
        if missing != self._missing and all(device.ready for device in devices):
            self._missing = missing
            if missing:
                self._log.error(
                    "keys of the configuration that no connected HSM holds: {keys}",
                    keys=", ".join(map(str, missing)),
                )

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
        troubles = [f"HSM {d.board}: {d.trouble}" for d in self.devices.values() if d.trouble]
        return Unavailable("; ".join([f"no connected HSM holds {key}", *troubles]))

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
        signing.result = Deferred.fromCoroutine(self._sign(signing))
        return signing

    async def _sign(self, signing: Signing) -> Signature:
        key, until = signing.key, self._reactor.seconds() + self._patience
        unclear = key, digest(signing.message)
        failure: Exception | None = None
        if signing.may_be_refused and unclear in self._unclear:
            # These devices may have signed it: they would refuse, or have not answered yet.
            signing.used, failure = self._unclear[unclear]
        while not signing.withdrawn:
            self._check_exposed(key)
            device = self._device_for(signing)
            if device is None:
                if not self._may_come(signing) or not await self._change(until):
                    break
                continue
            try:
                return await self._sign_with(device, signing)
            except NotSent as error:
                failure = error
                until = self._reactor.seconds() + self._patience
            except (StatusReply, NoAnswer) as error:
                failure = error
                until = self._reactor.seconds() + self._patience
                if signing.may_be_refused and isinstance(error, NoAnswer):
                    self._unclear[unclear] = signing.used, error
                    if len(self._unclear) > _REMEMBERED_UNCLEAR:
                        self._unclear.popitem(last=False)
        raise failure or self._nobody_holds(key)

    def _device_for(self, signing: Signing) -> HsmDevice | None:
        """The least busy of the devices that may be asked."""
        able = [
            device
            for device in self.devices.values()
            if device.ready
            and device.slot_of(signing.key)
            and device.connection not in signing.used
        ]
        return min(able, key=lambda device: device.load, default=None)

    def _may_come(self, signing: Signing) -> bool:
        """Whether waiting may help: a device that was asked already is as it was."""
        known = [device for device in self.devices.values() if device.slot_of(signing.key)]
        return not known or any(device.connection not in signing.used for device in known)

    async def _sign_with(self, device: HsmDevice, signing: Signing) -> Signature:
        slot = device.slot_of(signing.key)
        assert slot is not None
        connection = device.connection
        assert connection is not None
        signing.device = device
        signing.job = device.sign(
            slot,
            signing.message,
            signing.priority,
            lambda signature: self._late(signing, signature),
        )
        try:
            signature: Signature = await signing.job.result
        except NotSent:
            raise
        except WrongAnswer as error:
            self._log.critical("{error}", error=error)
            signing.used.add(connection)
            raise
        except (StatusReply, NoAnswer) as error:
            # The device would refuse a baking operation that it may have signed already;
            # anything else is asked for once more, unless it said no.
            if isinstance(error, StatusReply) or signing.may_be_refused or signing.tried:
                signing.used.add(connection)
            signing.tried = True
            raise
        finally:
            signing.sent = signing.sent or signing.job.sent
            signing.job = None
        self._check_nonce(signing.key, signing.message, signature)
        return signature

    def _late(self, signing: Signing, signature: Signature) -> None:
        try:
            self._check_nonce(signing.key, signing.message, signature)
        except Forbidden:
            return
        signing.late(signature)

    def _check_exposed(self, key: PublicKeyHash) -> None:
        if key in self._exposed:
            raise Forbidden(
                f"{key} signs no more: its HSM repeated a nonce, which exposes the secret key; "
                "replace the key"
            )

    def _check_nonce(self, key: PublicKeyHash, message: bytes, signature: Signature) -> None:
        """Two messages with one r give the secret key away to whoever sees both signatures."""
        seen = self._nonces.setdefault(key, OrderedDict())
        hashed = digest(message)
        if seen.setdefault(signature.r, hashed) != hashed:
            self._exposed.add(key)
            self._log.critical(
                "the HSM signed two messages of {key} with one nonce: its secret key is exposed, "
                "and it signs no more until the daemon is restarted",
                key=key,
            )
            self._check_exposed(key)
        if len(seen) > _REMEMBERED_NONCES:
            seen.popitem(last=False)
