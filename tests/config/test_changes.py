"""What differs between two configurations, and what of it takes a restart."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import attrs
from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import AUTH, OCTEZ, TZ1, TZ3
from tezio_signer.config import settings as settings_module
from tezio_signer.config.changes import changes, without_restart
from tezio_signer.config.setting import settings_of
from tezio_signer.config.settings import (
    Audit,
    ClientCa,
    Limits,
    RequestToken,
    Security,
    Settings,
    SigningKey,
)
from tezio_signer.hsm.boards import BoardSelector
from tezio_signer.simulator.settings import built_in_settings
from tezio_signer.tezos.keys import PublicKey
from tezio_signer.tezos.payload import Operation

SETTINGS = built_in_settings()
TOKEN = RequestToken("x-a", b"0123456789abcdef", Path("/a"))
OTHERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "signing_keys": (
        {
            key: evolve(each, chains=frozenset({"NetXdQprcVkpaWU"}), max_level_jump=5)
            for key, each in SETTINGS.signing_keys.items()
            if key != TZ1
        },
        (
            f"{TZ1} is removed",
            *(f"chains, max_level_jump of {key}" for key in SETTINGS.signing_keys if key != TZ1),
        ),
    ),
    "auth_key": (AUTH, ("policy.auth_key",)),
    "security": (Security(auth_check=False), ("security.auth_check",)),
    "verbose": (True, ("verbose",)),
    "allowed_ips": ((ip_network("10.0.0.0/8"),), ("allowed_ips",)),
    "allowed_uids": (frozenset({7}), ("allowed_uids",)),
    "authorized_keys": ((PublicKey.parse(OCTEZ["keys"][1]["pk"]),), ("authorized_keys",)),
    "list_known_keys": (not SETTINGS.list_known_keys, ("list_known_keys",)),
    "floors": ({Operation.BLOCK: (7, 0)}, ("high_water_marks",)),
    "hsms": ((BoardSelector(port="/dev/ttyACM0"),), ("hsms",)),
    "hsm_wait_seconds": (7.0, ("hsm_wait_seconds",)),
    "http": (("tcp:1",), ("listen.http",)),
    "octez_socket": (("tcp:2",), ("listen.octez_socket",)),
    "request_token": (TOKEN, ("request_token",)),
    "client_ca": (ClientCa(Path("/ca.pem")), ("client_ca",)),
    "limits": (
        Limits(headers=50, signatures_per_minute=1),
        ("limits.headers", "limits.signatures_per_minute"),
    ),
    "store": (Path("/other.sqlite"), ("watermarks",)),
    "audit": (Audit(Path("/audit.jsonl")), ("audit",)),
}
"""For each setting another value than that of SETTINGS, and how the change is told."""
BY_RESTART = {"hsms", "http", "octez_socket", "client_ca", "store", "audit"}


class ChangesTests(SynchronousTestCase):
    """Each setting by itself, and all together."""

    def test_each(self) -> None:
        """It is told by its key, and is in force at once unless it is one that takes a restart."""
        known = {each.attribute for each in settings_of(Settings)}
        self.assertEqual(known - OTHERS.keys(), set())
        for attribute, (value, words) in OTHERS.items():
            written = evolve(SETTINGS, **{attribute: value})
            found = changes(SETTINGS, written)
            restart = attribute in BY_RESTART
            self.assertEqual(found.by_restart, words if restart else (), attribute)
            self.assertEqual(found.now, () if restart else words, attribute)
            kept = without_restart(SETTINGS, written)
            self.assertEqual(kept, SETTINGS if restart else written, attribute)

    def test_all(self) -> None:
        """Whatever else changes, what takes a restart stays, and what does not is new."""
        written = evolve(SETTINGS, **{name: value for name, (value, _) in OTHERS.items()})
        kept = without_restart(SETTINGS, written)
        for name, (value, _) in OTHERS.items():
            expected = getattr(SETTINGS, name) if name in BY_RESTART else value
            self.assertEqual(getattr(kept, name), expected, name)
        found = changes(SETTINGS, written)
        self.assertEqual(len(found.by_restart), len(BY_RESTART))
        # When the daemon goes by that, only what takes a restart differs still.
        self.assertEqual(changes(kept, written), attrs.evolve(found, now=()))

    def test_sections(self) -> None:
        """No setting in a section takes a restart by itself: its section would."""
        for kind in vars(settings_module).values():
            if isinstance(kind, type) and attrs.has(kind) and kind is not Settings:
                for known in settings_of(kind):
                    self.assertFalse(known.setting.restart, known)

    def test_same(self) -> None:
        """What is read twice differs in nothing."""
        found = changes(SETTINGS, built_in_settings())
        self.assertEqual((found.now, found.by_restart), ((), ()))

    def test_keys(self) -> None:
        """Keys are told by their hashes: those that came, went, and changed."""
        written = evolve(
            SETTINGS,
            signing_keys={
                TZ3: SigningKey(TZ3, frozenset({Operation.BLOCK}), True),
            },
        )
        found = changes(evolve(written, signing_keys={TZ1: SETTINGS.signing_keys[TZ1]}), written)
        self.assertEqual(found.now, (f"{TZ3} is added", f"{TZ1} is removed"))
        found = changes(
            SETTINGS, evolve(SETTINGS, signing_keys=SETTINGS.signing_keys | written.signing_keys)
        )
        self.assertEqual(found.now, (f"allowed_ops, auth_req of {TZ3}",))

    def test_secret(self) -> None:
        """Another secret in the same file is told by the name of the setting, and never shown."""
        one = evolve(SETTINGS, request_token=TOKEN)
        other = evolve(SETTINGS, request_token=evolve(TOKEN, secret=b"fedcba9876543210"))
        self.assertEqual(changes(one, other).now, ("request_token",))
        renamed = evolve(one, request_token=evolve(TOKEN, header="x-b"))
        self.assertEqual(changes(one, renamed).now, ("request_token.header",))
        self.assertEqual(without_restart(one, other), other)
