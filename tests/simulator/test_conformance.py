"""The promises of a Tezio HSM, held against the simulated device and against a board."""

import os

from twisted.trial.unittest import TestCase

from tests.support.harness import reactor
from tests.support.hsmconformance import Conversation, DeviceConformance
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator

BOARD = os.environ.get("TEZIO_HSM_PORT")


class SimulatorConformanceTests(DeviceConformance, TestCase):
    """The simulated device."""

    def setUp(self) -> None:
        simulator = Simulator(reactor, Firmware(), 0)
        simulator.startService()
        self.addCleanup(simulator.stopService)
        assert simulator.port is not None
        self.conversation = Conversation(simulator.port)
        self.addCleanup(self.conversation.close)


if BOARD is not None:

    class BoardConformanceTests(DeviceConformance, TestCase):
        """The board at the port that TEZIO_HSM_PORT names."""

        def setUp(self) -> None:
            self.conversation = Conversation(str(BOARD))
            self.addCleanup(self.conversation.close)
