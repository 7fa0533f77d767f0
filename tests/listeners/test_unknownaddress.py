"""All listeners give the same decision in the same words: HTTP and sockets, on TCP and on Unix."""

import os
import re
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_network
from typing import cast

from attrs import frozen
from twisted.logger import LogEvent, capturedLogs, formatEvent

from tests.support import octezsocketclient as octezsocket
from tests.support.genericpayloads import noop_payload
from tests.support.harness import Harness, settings_with
from tests.support.listenercase import NOOP, ListenersTestCase
from tests.support.octezclient import HSM_AUTH_KEY, HSM_KEYS, SecretKey, message_in, to_base58check
from tests.support.octezsocketclient import OctezSocketError
from tests.support.stores import FailingStore
from tests.support.vectors import AUTH, OCTEZ, PAYLOADS, TZ3, block, consensus, noop
from tezio_signer.config.settings import Limits, Settings
from tezio_signer.hsm.framing import Slot
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.store import StoreError

TZ4 = OCTEZ["keys"][4]["pkh"]
_GENERIC_SIGNATURE = bytes.fromhex("04822b")


@frozen
class Sign:
    """A request to sign, as any listener can carry it."""

    payload: bytes
    pkh: str = str(TZ3)
    authentication: bytes = b""

    @property
    def http(self) -> tuple[str, str, bytes | None]:
        """Method, path and body."""
        query = "version=3"
        if self.authentication:
            text = to_base58check(_GENERIC_SIGNATURE, self.authentication)
            query = f"authentication={text}&{query}"
        return "POST", f"/keys/{self.pkh}?{query}", b'"%b"' % self.payload.hex().encode()

    @property
    def socket(self) -> bytes:
        """The payload of a frame."""
        return octezsocket.sign(self.pkh, self.payload, self.authentication)


@frozen
class Get:
    """A request for something else, as any listener can carry it."""

    path: str
    socket: bytes

    @property
    def http(self) -> tuple[str, str, bytes | None]:
        """Method, path and body."""
        return "GET", self.path, None


Request = Sign | Get
AUTHORIZED_KEYS = Get("/authorized_keys", octezsocket.AUTHORIZED_KEYS)
KNOWN_KEYS = Get("/known_keys", octezsocket.KNOWN_KEYS)


def public_key(pkh: str) -> Get:
    """A request for a public key."""
    return Get(f"/keys/{pkh}", octezsocket.public_key(pkh))


def proof(pkh: str) -> Get:
    """A request for a proof of possession."""
    return Get(f"/bls_prove_possession/{pkh}", octezsocket.prove_possession(pkh))


class FailingHarness(Harness):
    """A signer whose store can be told to fail, and whose device refuses no operation."""

    def __init__(self, settings: Settings) -> None:
        self.store = FailingStore()
        firmware = Firmware(enabled=dict.fromkeys(Slot, (0x03, 0x11, 0x12, 0x13)))
        super().__init__(settings, firmware, lambda: self.store)


async def _nothing(_: FailingHarness) -> None:
    """No preparation."""


@frozen
class Case:
    """A refusal: how it comes to it, and what is said.

    :ivar before: signed before, in turn.
    :ivar prepare: done to the signer before it is asked.
    """

    status: int
    sentence: str
    request: Request
    settings: Callable[[], Settings] = settings_with
    before: tuple[bytes, ...] = ()
    prepare: Callable[[FailingHarness], Awaitable[None]] = _nothing


async def _unplug(harness: FailingHarness) -> None:
    harness.simulator.unplug()
    while harness.hsms.devices and any(device.ready for device in harness.hsms.devices.values()):
        await harness.hsms.changed(0.1)
    harness.be_impatient()


async def _keep_busy(harness: FailingHarness) -> None:
    """One command is with the device, and one waits."""

    def lost(data: bytes) -> None:
        """Nothing arrives at the device."""

    harness.simulator._line.received = lost  # type: ignore[method-assign]
    for number in range(2):
        harness.hsms.sign(TZ3, noop(number)).result.addErrback(lambda _: None)


async def _stop(harness: FailingHarness) -> None:
    harness.signer.close("the signer is stopping")


async def _fail_to_store(harness: FailingHarness) -> None:
    harness.store.error = harness.store.signature_error = StoreError("disk full")


async def _break(harness: FailingHarness) -> None:
    def claim(*_: object) -> None:
        raise ZeroDivisionError

    harness.watermarks.claim = claim  # type: ignore[assignment]


def authenticated() -> Settings:
    """Settings of keys that want authentication."""
    return settings_with(auth_req=True, auth_key=AUTH)


def signed_by(key: SecretKey, payload: bytes) -> bytes:
    """The authentication of a request to sign a payload."""
    return octezsocket.authentication(key, str(TZ3), payload)


ELSEWHERE = "address 127.0.0.1 is not among allowed_ips"
NO_KEY = "no keys for the source contract {}"
TOO_LARGE = "the payload has {} bytes; a Tezio HSM signs 1015 at most"
NO_PROOF = "Proof of possession can only be requested for BLS keys."
ANYTHING: tuple[Request, ...] = (
    Sign(NOOP),
    Sign(b""),
    public_key(str(TZ3)),
    AUTHORIZED_KEYS,
    KNOWN_KEYS,
    proof(TZ4),
)
KINDS = (
    "accepted are 0x03 (generic), 0x05 (michelson), 0x11 (block), 0x12 (preattestation), 0x13 "
    "(attestation)"
)
INVALID = "invalid authentication signature"
CASES = {
    "cut_off": Case(
        400,
        "the attestation is cut off in its block payload hash: 31 of 32 bytes, at byte 48",
        Sign(PAYLOADS["att"][:-1]),
    ),
    "too_long": Case(
        400,
        "the preattestation has 1 trailing byte, at byte 80",
        Sign(PAYLOADS["preatt"] + b"\x00"),
    ),
    "empty": Case(400, "can't sign empty data", Sign(b"")),
    "unknown_magic_byte": Case(400, f"unknown magic byte 0xF8; {KINDS}", Sign(b"\xf8" + NOOP[1:])),
    "tz4_form": Case(
        400,
        "the attestation has the form for tz4 keys, which a Tezio HSM has not",
        Sign(PAYLOADS["bls_att"]),
    ),
    "never_signed": Case(
        403,
        f"magic byte 0x02 (legacy_endorsement) not allowed: never signed; {KINDS}",
        Sign(b"\x02" + NOOP[1:]),
    ),
    "unknown_key": Case(404, NO_KEY.format(AUTH), Sign(NOOP, str(AUTH))),
    "unknown_tz4_key": Case(404, NO_KEY.format(TZ4), Sign(NOOP, TZ4)),
    "unknown_public_key": Case(404, NO_KEY.format(TZ4), public_key(TZ4)),
    **{
        f"elsewhere_{number}": Case(
            403, ELSEWHERE, request, lambda: settings_with(allowed_ips=(ip_network("10.0.0.0/8"),))
        )
        for number, request in enumerate(ANYTHING)
    },
    "no_authentication": Case(
        401, "missing authentication signature field", Sign(NOOP), authenticated
    ),
    "authentication_of_nobody": Case(
        401, INVALID, Sign(NOOP, authentication=bytes(64)), authenticated
    ),
    "authentication_of_another_key": Case(
        401, INVALID, Sign(NOOP, authentication=signed_by(HSM_KEYS[2], NOOP)), authenticated
    ),
    "authentication_of_another_payload": Case(
        401,
        INVALID,
        Sign(NOOP, authentication=signed_by(HSM_AUTH_KEY, noop(1))),
        authenticated,
    ),
    "chain": Case(
        403,
        f"chain NetXdQprcVkpaWU is not allowed for {TZ3}; allowed: NetXnHfVqm9iesp",
        Sign(block(7, 0)),
        lambda: settings_with(chains=["NetXnHfVqm9iesp"]),
    ),
    "operation": Case(
        403,
        f"magic byte 0x11 (block) not allowed for {TZ3}; allowed: generic",
        Sign(block(7, 0)),
        lambda: settings_with(operations=[Operation.GENERIC]),
    ),
    "no_operation": Case(
        403,
        f"magic byte 0x03 (generic) not allowed for {TZ3}; allowed: none",
        Sign(NOOP),
        lambda: settings_with(operations=[]),
    ),
    "conflict": Case(
        409,
        "block at level 7 round 0 is already signed with different data",
        Sign(block(7, 0, 2)),
        before=(block(7, 0, 1),),
    ),
    "below_the_mark": Case(
        409,
        "attestation at level 6 round 0 is not above the high watermark, level 7 round 0",
        Sign(consensus("att", 6, 0)),
        before=(consensus("att_dal_5", 7, 0),),
    ),
    "floor": Case(
        409,
        "block at level 7 round 3 is not above the configured floor, level 7 round 3",
        Sign(block(7, 3)),
        lambda: settings_with(floors={Operation.BLOCK: (7, 3)}),
    ),
    "level_jump": Case(
        409,
        "block at level 500008 round 0 is 500001 levels above the high watermark, level 7 round 0, "
        "and max_level_jump is 500000; if this level is right, stop the signer and run: "
        f"tezio-signer watermarks set --chain NetXdQprcVkpaWU --key {TZ3} --operation block "
        "--level 500007",
        Sign(block(500_008, 0)),
        before=(block(7, 0),),
    ),
    "mark_of_the_device": Case(
        409,
        "the HSM answered D4: the device's own watermark refuses this level and round; "
        "it signs nothing at level 0 round 0",
        Sign(block(0, 0)),
    ),
    "too_large": Case(413, TOO_LARGE.format(1016), Sign(noop_payload(1016))),
    "far_too_large": Case(413, TOO_LARGE.format(65_000), Sign(noop_payload(65_000))),
    "too_many": Case(
        429,
        f"more than 1 generic operations a minute for {TZ3} from 127.0.0.1; try again later",
        Sign(noop(1)),
        lambda: settings_with(limits=Limits(signatures_per_minute=1)),
        before=(NOOP,),
    ),
    "too_many_waiting": Case(
        502,
        "1 requests wait for the HSM simulated at PORT already",
        Sign(NOOP),
        lambda: settings_with(limits=Limits(requests_waiting=1)),
        prepare=_keep_busy,
    ),
    "no_hsm": Case(
        502,
        f"no connected HSM holds {TZ3}; HSM simulated at PORT: was unplugged",
        Sign(NOOP),
        prepare=_unplug,
    ),
    "store_fails": Case(
        502,
        "no signature without a stored watermark: disk full",
        Sign(block(7, 0)),
        prepare=_fail_to_store,
    ),
    "stopping": Case(502, "the signer is stopping", Sign(NOOP), prepare=_stop),
    "known_keys": Case(
        403,
        "List known keys request not allowed.",
        KNOWN_KEYS,
        lambda: settings_with(list_known_keys=False),
    ),
    "proof_of_possession": Case(403, NO_PROOF, proof(TZ4)),
    "fault": Case(
        500, "internal error of the signer, see its log", Sign(block(7, 0)), prepare=_break
    ),
}
"""Every refusal by its name. A port's name is read as PORT."""


class RefusalTests(ListenersTestCase):
    """The same refusal at every listener."""

    async def decisions(self, request: Request) -> dict[str, tuple[int, str]]:
        """What is decided at each listener: the status, as it is logged, and the sentence."""
        decisions = {}
        for listener, client in self.http.items():
            with capturedLogs() as events:
                answer = await client.request(*request.http)
            status = self.logged(events)
            self.assertEqual(answer.status, status, listener)
            decisions[listener] = (status, message_in(answer.body))
        for listener, asking in self.sockets.items():
            with capturedLogs() as events, self.assertRaises(OctezSocketError) as refused:
                await asking.ask(request.socket)
            decisions[listener] = (self.logged(events), refused.exception.message)
        return {
            listener: (status, re.sub(r"/dev/\S+\d", "PORT", sentence))
            for listener, (status, sentence) in decisions.items()
        }

    def logged(self, events: Sequence[LogEvent]) -> int:
        """The status of the one refusal that was logged."""
        (status,) = [
            500 if "log_failure" in event else event["status"]
            for event in events
            if "status" in event or "log_failure" in event
        ]
        return cast(int, status)

    async def check(self, case: Case) -> None:
        """Ask for the same at every listener."""
        harness = FailingHarness(case.settings())
        await self.open(harness)
        for payload in case.before:
            self.assertEqual((await harness.sign(TZ3, payload)).status, 200)
        await case.prepare(harness)
        expected = dict.fromkeys([*self.http, *self.sockets], (case.status, case.sentence))
        self.assertEqual(await self.decisions(case.request), expected)
        self.flushLoggedErrors(ZeroDivisionError)


def _add_tests() -> None:
    """One test for each row of the table."""
    for name, case in CASES.items():

        async def test(self: RefusalTests, case: Case = case) -> None:
            await self.check(case)

        test.__doc__ = f"Every listener says {case.status}: {case.sentence}"
        setattr(RefusalTests, f"test_{name}", test)


_add_tests()


class UserTests(ListenersTestCase):
    """Who may ask at a Unix socket."""

    async def start(self, *uids: int) -> None:
        """A signer for these users."""
        await self.open(Harness(settings_with(allowed_uids=frozenset(uids))))

    async def test_allowed(self) -> None:
        """A user that is named is served everywhere."""
        await self.start(os.getuid())
        for client in self.http.values():
            self.assertEqual((await client.sign(TZ3, NOOP)).status, 200)
        for asking in self.sockets.values():
            await asking.sign(str(TZ3), NOOP)

    async def test_not_allowed(self) -> None:
        """A user that is not is refused at Unix sockets, whatever is asked for."""
        await self.start(os.getuid() + 1)
        sentence = f"user id {os.getuid()} is not among allowed_uids"
        for request in ANYTHING:
            answer = await self.http["HTTP Unix"].request(*request.http)
            self.assertEqual((answer.status, message_in(answer.body)), (403, sentence))
            with self.assertRaises(OctezSocketError) as refused:
                await self.sockets["socket Unix"].ask(request.socket)
            self.assertEqual(refused.exception.message, sentence)
        self.assertEqual((await self.http["HTTP TCP"].sign(TZ3, NOOP)).status, 200)
        await self.sockets["socket TCP"].sign(str(TZ3), NOOP)

    async def test_is_logged(self) -> None:
        """The log of a decision says whose process asked at a Unix socket."""
        await self.start(os.getuid())
        with capturedLogs() as events:
            await self.http["HTTP Unix"].sign(TZ3, NOOP)
            await self.sockets["socket Unix"].sign(str(TZ3), NOOP)
            await self.sockets["socket TCP"].sign(str(TZ3), NOOP)
        said = [formatEvent(event) for event in events if "signed" in event["log_format"]]
        whose = f"from 127.0.0.1 (uid {os.getuid()}, gid {os.getgid()}, pid {os.getpid()}) in"
        self.assertEqual([whose in line for line in said], [True, True, False])
