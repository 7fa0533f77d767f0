"""`tezio-signer explain` beside a daemon, as two real processes."""

import json
from pathlib import Path
from random import Random
from typing import Any

from twisted.trial.unittest import TestCase

from tests.campaigns.explaining import Chance
from tests.support.daemonprocess import FREE_PORT, serving, start_command, start_daemon
from tests.support.harness import EVERY_MAGIC_BYTE, reactor
from tests.support.octezclient import message_in
from tests.support.vectors import TZ1, TZ3, block
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator
from tezio_signer.watermarks.sqlite import store as sqlite

CONFIG = """
policy:
    signing_keys:
        {tz1}: {{allowed_ops: [generic, attestation], auth_req: False}}
        {tz3}: {{allowed_ops: [block, generic], auth_req: False, max_level_jump: 3}}
hsms: [{{port: "{hsm}"}}]
watermarks: {{store: "sqlite:watermarks.sqlite"}}
"""
PAYLOADS = 12


class _Forgetful(Firmware):
    """Has no watermarks of its own, which `explain` knows nothing of."""

    def execute(self, packet: bytes) -> Any:
        self.power_cycle()
        return super().execute(packet)


class ProcessTests(TestCase):
    """What is explained is what the daemon answers next."""

    timeout = 120

    async def test_beside_a_daemon(self) -> None:
        """Each of some payloads is explained, and then asked for: status and sentence agree."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        hsm = directory / "hsm"
        config = CONFIG.format(tz1=TZ1, tz3=TZ3, hsm=hsm)
        (directory / "config.yaml").write_text(config, "utf-8")
        sqlite.create(directory / "watermarks.sqlite")
        simulator = Simulator(reactor, _Forgetful(enabled=EVERY_MAGIC_BYTE), 0, str(hsm))
        simulator.startService()
        self.addCleanup(simulator.stopService)
        daemon = start_daemon(self, directory, "--http", FREE_PORT)
        client = await serving(daemon)
        chance = Chance(Random(7))
        statuses = set()
        for number in range(PAYLOADS):
            key = (TZ1, TZ3)[number % 2]
            payload = block(104, 0) if number in (3, 5) else chance.payload()
            command = start_command(
                self, directory, "explain", payload.hex(), "--key", str(key), "--json"
            )
            code = await command.exits()
            (explained,) = json.loads(command.out)["keys"]
            decision = explained["decision"]
            answer = await client.sign(key, payload)
            statuses.add(answer.status)
            if answer.status == 200:
                self.assertEqual((code, decision["signed"]), (0, True), payload.hex())
            else:
                self.assertEqual((code, decision["status"]), (1, answer.status), payload.hex())
                self.assertEqual(decision["sentence"], message_in(answer.body))
        self.assertGreater(len(statuses), 2)
