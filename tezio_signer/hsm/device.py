"""One Tezio HSM: its connection, its keys, and its way through unplugging and faults.

A board is in one of these states, by `connection` and `ready`:

    away        no connection: it is not plugged in, rests, or its port cannot be opened
    asked       connected and not ready: it has to be quiet, if it was out of step, and then
                to say all its keys, twice in the same way
    ready       connected and ready: a command may be sent, one at a time

    away ──► asked      it is found, and has rested
    asked ──► ready     its keys were said
    asked ──► away      it gave no keys; it rests, longer each time
    ready ──► asked     it is out of step: a command has no answer, or it said something unasked
    any ──► away        its port was closed, by us or because it was unplugged

What holds, and has a test each (`tests/hsm/test_device.py`):

1. Nothing is written to a board out of step before it was quiet (`test_no_answer`,
   `test_stray_bytes`), or while an earlier command is still in the port
   (`test_device_that_takes_nothing`).
2. A late answer never becomes that of another command (`test_late_at_every_moment`).
3. A board is used with the keys that it said last; another key in a slot is told as a
   critical matter (`test_other_keys`).
"""

import termios
from collections.abc import Callable
from functools import partial
from typing import Any

from serial import SerialException
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.errors import Unavailable
from tezio_signer.hsm import framing
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.exchange import (
    Command,
    Conversation,
    NoAnswer,
    Ports,
    WrongAnswer,
)
from tezio_signer.hsm.framing import FramingError, Slot, StatusReply
from tezio_signer.hsm.portaccess import is_absent, why_not_opened
from tezio_signer.hsm.slots import CURVES, SIGNING_SLOTS
from tezio_signer.noop import do_nothing
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature, UnsupportedCurveError

_READINGS = 4


class HsmDevice:
    """A board, plugged in or not. It is used while it is `ready`.

    :param changed: called whenever the device became ready or was lost.
    :ivar keys: the public keys that the device said it holds when it was asked last.
    :ivar left_out: the slots that did not say a key that can be used, and why not.
    :ivar connection: the present connection; another object after each re-plugging.
    :ivar present: whether a board is plugged in there, as far as is known.
    :ivar trouble: what keeps the device from being used, if it is known; a sentence
        without its subject.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, board: Board, ports: Ports, changed: Callable[[], object]
    ) -> None:
        self.board = board
        self.keys: dict[Slot, PublicKey] = {}
        self.left_out: dict[Slot, str] = {}
        self.connection: Conversation | None = None
        self.ready = False
        self.present = False
        self.trouble = ""
        self._clock = clock
        self._ports = ports
        self._changed = changed
        self._failures = 0
        self._rest_until = 0.0
        self._refusal = ""

    @property
    def free(self) -> bool:
        """Whether a command may be sent now."""
        return self.ready and self.connection is not None and not self.connection.busy

    def usable(self) -> bool:
        """Whether it is ready; what has said something unasked is brought into step first."""
        connection = self.connection
        if self.free and connection is not None and not connection.in_step:
            self.trouble = "sent bytes unasked"
            self._get_into_step(connection)
        return self.ready

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
        self, slot: Slot, message: bytes, late: Callable[[Signature], object] = do_nothing
    ) -> Deferred[Signature]:
        """Have a message signed; the result is verified, and in the form that Octez takes.

        The device has to be free.

        :param late: called with the signature when it comes after the Deferred has failed.
        :raises FramingError: for a message that must not be sent.

        The Deferred fails with StatusReply, WrongAnswer or NoAnswer.
        """
        key = self.keys[slot]

        def read(body: bytes) -> Signature:
            signature = Signature(CURVES[slot], framing.signature_from(body)).low_s()
            if not key.verifies(message, signature):
                raise WrongAnswer(f"the HSM {self.board} gave a signature that does not verify")
            return signature

        assert self.connection is not None
        answer = self.connection.exchange(Command(framing.sign(slot, message), read, late))
        return answer.addBoth(self._answered, self.connection)

    def _answered(self, answer: Any, connection: Conversation) -> Any:
        if connection is self.connection and not connection.in_step:
            failed = isinstance(answer, Failure)
            why = answer.getErrorMessage() if failed else "sent bytes unasked"
            self.trouble = self._of_itself(why)
            self._get_into_step(connection)
        return answer

    # -- connections -------------------------------------------------------------------

    def plugged_in(self, board: Board) -> None:
        """The board is there, perhaps under another name than before."""
        if board.port != self.board.port:
            self.close()
        if board.node != self.board.node:
            self._forget_failures()
        self.board = board
        if self.connection is None and self._clock.seconds() >= self._rest_until:
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
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> None:
        try:
            self.connection = self._ports.connect(self.board, self._lost)
        except (SerialException, OSError, termios.error) as error:
            self._not_opened(error)
            return
        self._refusal = ""
        self.present = True
        self._get_into_step(self.connection)

    def _not_opened(self, error: Exception) -> None:
        refusal = repr(error)
        self.present = self.present and not is_absent(error)
        if refusal != self._refusal:  # it is tried again and again, and looked into once
            self._refusal = refusal
            self._report(why_not_opened(self.board.port, error))

    def _get_into_step(self, connection: Conversation) -> None:
        """Use it no more until it has said its keys; the conversation has said why in the log."""
        self.ready = False
        asking = Deferred.fromCoroutine(self._ask_for_keys(connection))
        asking.addCallbacks(self._became_ready, self._gave_up, errbackArgs=(connection,))

    async def _ask_for_keys(self, connection: Conversation) -> dict[Slot, PublicKey]:
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

    async def _keys_of(self, connection: Conversation) -> dict[Slot, PublicKey]:
        if not connection.in_step:
            if connection.unsent:
                # It would be sent some day, and be signed unasked.
                raise NoAnswer(f"the HSM {self.board} does not take what is written to it")
            await connection.quiet()
        keys: dict[Slot, PublicKey] = {}
        for slot in Slot:
            try:
                key = await connection.exchange(
                    Command(framing.get_public_key(slot), partial(_public_key_from, slot))
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
        self._changed()

    def _gave_up(self, failure: Failure, connection: Conversation) -> None:
        if not failure.check(Unavailable):
            self._log.failure("HSM {board} cannot be used", failure, board=self.board)
        self._report(self._of_itself(failure.getErrorMessage()))
        if connection.gone:  # not its fault: it may be used as soon as it is back
            return
        # Left alone for a while, then tried again: it may come to itself.
        rest = min(self._ports.timing.first_rest * 2**self._failures, self._ports.timing.last_rest)
        self._failures += 1
        self._rest_until = self._clock.seconds() + rest
        self.close()

    def _lost(self) -> None:
        was_ready, self.ready = self.ready, False
        if self.connection is not None:  # it was not we who closed it
            self.connection = None
            self.present = False
            if was_ready:
                self._report("was unplugged")
        self._changed()

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
