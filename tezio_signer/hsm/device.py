"""One Tezio HSM: its queue of commands, its keys, and its way through unplugging and faults."""

import termios
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import Any

from attrs import define, field
from serial import SerialException
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.config.settings import DEFAULT_WAITING
from tezio_signer.errors import Unavailable
from tezio_signer.hsm import framing
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.framing import FramingError, Slot, StatusReply
from tezio_signer.hsm.portaccess import is_absent, why_not_opened
from tezio_signer.hsm.slots import CURVES, SIGNING_SLOTS
from tezio_signer.serialhsm import (
    DEFAULT_TIMING,
    ExclusiveSerialPort,
    HsmProtocol,
    NoAnswer,
    Timing,
    WrongAnswer,
)
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature, UnsupportedCurveError

_READINGS = 4
OpenPort = Callable[[HsmProtocol, str], ExclusiveSerialPort]


class Priority(IntEnum):
    """The order in which waiting commands are sent."""

    BLOCK = 0
    CONSENSUS = 1
    OTHER = 2


class NotSent(Unavailable):
    """A command did not reach the device, and has no effect."""


@define(eq=False)
class Job:
    """A command, who waits for it, and what to do with an answer that comes too late."""

    priority: Priority
    request: framing.Request
    read: Callable[[bytes], Any]
    late: Callable[[Any], object] = bool
    result: Deferred[Any] = field(factory=Deferred)
    sent: bool = False


class HsmDevice:
    """A board, plugged in or not. It is used while it is `ready`.

    :param changed: called whenever the device became ready or was lost.
    :param most_waiting: how many commands of one priority may wait.
    :ivar keys: the public keys that the device said it holds when it was asked last.
    :ivar left_out: the slots that did not say a key that can be used, and why not.
    :ivar connection: the present connection; another object after each re-plugging.
    :ivar present: whether a board is plugged in there, as far as is known.
    :ivar trouble: what keeps the device from being used, if it is known; a sentence
        without its subject.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        board: Board,
        open_port: OpenPort,
        changed: Callable[[], object],
        timing: Timing = DEFAULT_TIMING,
        verbose: bool = False,
        most_waiting: int = DEFAULT_WAITING,
    ) -> None:
        self.board = board
        self.keys: dict[Slot, PublicKey] = {}
        self.ready = False
        self.connection: HsmProtocol | None = None
        self._reactor = reactor
        self._open_port = open_port
        self._changed = changed
        self._timing = timing
        self._verbose = verbose
        self._most_waiting = most_waiting
        self._port: ExclusiveSerialPort | None = None
        self._busy: Job | None = None
        self._waiting: dict[Priority, deque[Job]] = {priority: deque() for priority in Priority}
        self._failures = 0
        self._rest_until = 0.0
        self._leaving = False
        self._refusal = ""
        self.present = False
        self.left_out: dict[Slot, str] = {}
        self.trouble = ""

    @property
    def load(self) -> int:
        """How many commands are waiting or in flight."""
        return sum(map(len, self._waiting.values())) + (self._busy is not None)

    def holds(self, key: PublicKeyHash) -> bool:
        """Whether it said that it holds a key, in whichever slot."""
        return any(public.hash == key for public in self.keys.values())

    def slot_of(self, key: PublicKeyHash) -> Slot | None:
        """The slot that may sign for an address."""
        for slot in SIGNING_SLOTS:
            if slot in self.keys and self.keys[slot].hash == key:
                return slot
        return None

    # -- commands ----------------------------------------------------------------------

    def sign(
        self,
        slot: Slot,
        message: bytes,
        priority: Priority,
        late: Callable[[Signature], object] = bool,
    ) -> Job:
        """Have a message signed; the result is verified, and in the form that Octez takes.

        :param late: called with the signature when it comes after its job has failed.
        :raises Unavailable: when too many commands wait.
        :raises FramingError: for a message that must not be sent.
        """
        key = self.keys[slot]

        def read(body: bytes) -> Signature:
            signature = Signature(CURVES[slot], framing.signature_from(body)).low_s()
            if not key.verifies(message, signature):
                raise WrongAnswer(f"the HSM {self.board} gave a signature that does not verify")
            return signature

        return self._put(Job(priority, framing.sign(slot, message), read, late))

    def verify(self, slot: Slot, message: bytes, signature: Signature) -> Job:
        """What the device says of a signature; False also means that its chip failed."""
        request = framing.verify(slot, message, signature.data)
        return self._put(Job(Priority.OTHER, request, framing.verdict_from))

    def withdraw(self, job: Job) -> bool:
        """Take a command back, unless it has been sent; its result then fails with NotSent."""
        if job not in self._waiting[job.priority]:
            return False
        self._waiting[job.priority].remove(job)
        job.result.errback(NotSent("withdrawn before it reached the HSM"))
        return True

    def _put(self, job: Job) -> Job:
        # Each kind has its own room: transfers must not keep blocks out.
        if len(self._waiting[job.priority]) >= self._most_waiting:
            raise Unavailable(
                f"{self._most_waiting} requests wait for the HSM {self.board} already"
            )
        self._waiting[job.priority].append(job)
        self._send_next()
        return job

    def _send_next(self) -> None:
        if not self.ready or self._busy is not None or not any(self._waiting.values()):
            return
        assert self.connection is not None
        if not self.connection.in_step:  # something came unasked
            self._out_of_step("sent bytes unasked")
            self._get_into_step(self.connection)
            return
        job = next(filter(None, self._waiting.values())).popleft()
        self._busy = job
        job.sent = True
        answer = self.connection.exchange(job.request, job.read, job.late)
        answer.addBoth(self._answered, job, self.connection)

    def _answered(self, answer: object, job: Job, connection: HsmProtocol) -> None:
        self._busy = None
        if connection is self.connection and not connection.in_step:
            self.ready = False  # before others are told to look for a device that is
            self._out_of_step(
                answer.getErrorMessage() if isinstance(answer, Failure) else "sent bytes unasked"
            )
            self._give_back(f"the HSM {self.board} has to be brought into step")
            self._get_into_step(connection)
        self._send_next()
        job.result.callback(answer)

    def _out_of_step(self, why: str) -> None:
        """It is not used until it has proved itself; the conversation has said so in the log."""
        self.trouble = self._of_itself(why)

    # -- connections -------------------------------------------------------------------

    def plugged_in(self, board: Board) -> None:
        """The board is there, perhaps under another name than before."""
        if board.port != self.board.port:
            self.close()
        if board.node != self.board.node:
            self._forget_failures()
        self.board = board
        if self._port is None and self._reactor.seconds() >= self._rest_until:
            self._connect()

    def unplugged(self) -> None:
        """The board is not there any more."""
        self.present = False
        self._refusal = ""
        self._report("was unplugged")
        self.close()
        self._forget_failures()

    def _forget_failures(self) -> None:
        """A board that was pulled out may be another than it was."""
        self._failures = 0
        self._rest_until = 0.0

    def close(self) -> None:
        """Leave the port, whatever the device is doing."""
        if self._port is not None:
            self._leaving = True
            self._port.abort()

    def _connect(self) -> None:
        connection = HsmProtocol(
            self._reactor,
            lambda: self._lost(connection),
            str(self.board),
            self._timing,
            self._verbose,
        )
        try:
            self._port = self._open_port(connection, self.board.port)
        except (SerialException, OSError, termios.error) as error:
            self._not_opened(error)
            return
        self._refusal = ""
        self.present = True
        self.connection = connection
        self._get_into_step(connection)

    def _not_opened(self, error: Exception) -> None:
        refusal = repr(error)
        self.present = self.present and not is_absent(error)
        if refusal != self._refusal:  # it is tried again and again, and looked into once
            self._refusal = refusal
            self._report(why_not_opened(self.board.port, error))

    def _get_into_step(self, connection: HsmProtocol) -> None:
        self.ready = False
        asking = Deferred.fromCoroutine(self._ask_for_keys(connection))
        asking.addCallbacks(self._became_ready, self._gave_up, errbackArgs=(connection,))

    async def _ask_for_keys(self, connection: HsmProtocol) -> dict[Slot, PublicKey]:
        """The keys of all slots, whose replies also show that no older one is on its way.

        They are believed when two readings agree, one of which may be an earlier one: the
        firmware does not notice when it reads a key wrong. Asked once more if that fails:
        the device may have been in the middle of something.
        """
        known, failed = self.keys, False
        for _ in range(_READINGS):
            try:
                keys = await self._keys_of(connection)
            except NoAnswer:
                if failed or connection.gone:
                    raise
                failed = True
            else:
                if keys == known:
                    return keys
                known = keys
        raise NoAnswer(f"the HSM {self.board} gives other public keys each time")

    async def _keys_of(self, connection: HsmProtocol) -> dict[Slot, PublicKey]:
        if not connection.in_step:
            if self._port is not None and self._port.unsent:
                # It would be sent some day, and be signed unasked.
                raise NoAnswer(f"the HSM {self.board} does not take what is written to it")
            await connection.quiet()
            connection.in_step = True
        keys: dict[Slot, PublicKey] = {}
        for slot in Slot:
            try:
                key = await connection.exchange(
                    framing.get_public_key(slot), partial(_public_key_from, slot)
                )
            except StatusReply as status:
                if slot in self.keys:  # it was there before, and may be again
                    raise NoAnswer(
                        f"the HSM {self.board} does not say the key of slot {slot:d}: {status}"
                    ) from status
                self._leave_out(slot, status)
                continue
            if isinstance(key, UnsupportedCurveError):
                self._leave_out(slot, key)
            else:
                self.left_out.pop(slot, None)
                keys[slot] = key
        if not keys or not connection.in_step:
            raise NoAnswer(f"the HSM {self.board} gives no public keys")
        return keys

    def _leave_out(self, slot: Slot, why: Exception) -> None:
        """A slot cannot be used, the others can."""
        if self.left_out.get(slot) != str(why):
            self.left_out[slot] = str(why)
            self._log.warn(
                "HSM {board}, slot {slot}: {why}", board=self.board, slot=int(slot), why=why
            )

    def _became_ready(self, keys: dict[Slot, PublicKey]) -> None:
        for slot in self.keys.keys() & keys.keys():
            if self.keys[slot] != keys[slot]:
                self._log.critical(
                    "HSM {board}: the key of slot {slot} has changed from {old} to {new}",
                    board=self.board,
                    slot=int(slot),
                    old=self.keys[slot].hash,
                    new=keys[slot].hash,
                )
        if keys != self.keys or self.trouble:
            self._log.info(
                "HSM {board} is ready: {keys}",
                board=self.board,
                keys=", ".join(f"slot {slot} {key.hash}" for slot, key in keys.items()),
            )
        self.keys = keys
        self.ready = True
        self.trouble = ""
        self._failures = 0
        self._send_next()
        self._changed()

    def _gave_up(self, failure: Failure, connection: HsmProtocol) -> None:
        if not failure.check(Unavailable):
            self._log.failure("HSM {board} cannot be used", failure, board=self.board)
        self._report(self._of_itself(failure.getErrorMessage()))
        if connection.gone:  # not its fault: it may be used as soon as it is back
            return
        # Left alone for a while, then tried again: it may come to itself.
        rest = min(self._timing.first_rest * 2**self._failures, self._timing.last_rest)
        self._failures += 1
        self._rest_until = self._reactor.seconds() + rest
        self.close()

    def _lost(self, connection: HsmProtocol) -> None:
        was_ready, self.ready = self.ready, False
        self.connection = self._port = None
        if not self._leaving:
            self.present = False
            if was_ready:
                self._report("was unplugged")
        self._leaving = False
        self._give_back(f"the HSM {self.board} was unplugged")
        self._changed()

    def _give_back(self, why: str) -> None:
        """Let others serve the commands that wait here."""
        waiting = [job for jobs in self._waiting.values() for job in jobs]
        for jobs in self._waiting.values():
            jobs.clear()
        for job in waiting:
            job.result.errback(NotSent(why))

    def _of_itself(self, sentence: str) -> str:
        """What a sentence says of this device, without its name."""
        return sentence.removeprefix(f"the HSM {self.board} ")

    def _report(self, trouble: str) -> None:
        """Say what keeps the device from being used, once until it changes."""
        if trouble != self.trouble:
            self.trouble = trouble
            self._log.error("HSM {board}: {trouble}", board=self.board, trouble=trouble)


def _public_key_from(slot: Slot, body: bytes) -> PublicKey | UnsupportedCurveError:
    """The key, or why it cannot be used, which is an answer too."""
    data = framing.key_from(slot, body)
    try:
        return PublicKey.of(CURVES[slot], data)
    except UnsupportedCurveError as error:
        return error
    except ValueError as error:  # the firmware does not notice a failing read
        raise FramingError(
            f"a public key of slot {slot:d} that is no point of its curve"
        ) from error
