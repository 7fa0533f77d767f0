"""What an operator is warned of before the daemon listens."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.support.missingcurve import without_curve
from tests.support.vectors import AUTH, OCTEZ, TZ1, TZ2, TZ3
from tezio_signer.config.settings import (
    ClientCa,
    EtcdAddress,
    RequestToken,
    Security,
    Settings,
    SigningKey,
)
from tezio_signer.errors import StartupError
from tezio_signer.startup import warnings as cautions
from tezio_signer.tezos.keys import Curve, PublicKey, PublicKeyHash
from tezio_signer.tezos.payload import Operation

EDPK, SPPK = (PublicKey.parse(OCTEZ["keys"][n]["pk"]) for n in (1, 2))
GENERIC = [Operation.GENERIC]
BLOCKS = [Operation.BLOCK]
LOOPBACK = (ip_network("127.0.0.1"), ip_network("::1"))
OPEN = "tcp:6732:interface=0.0.0.0"


def key_of(key: PublicKeyHash, operations: list[Operation], **more: Any) -> SigningKey:
    """A signing key that asks for no authentication unless it is told to."""
    return SigningKey(key, frozenset(operations), **{"auth_req": False, **more})


def settings_for(*keys: SigningKey, **more: Any) -> Settings:
    """Settings of these keys, for this machine, with a store in etcd."""
    etcd = EtcdAddress(("https://a:1",))
    values = {
        "allowed_ips": LOOPBACK,
        "store": etcd,
        "auth_key": AUTH,
        "http": ("unix:/x",),
        **more,
    }
    return Settings({key.key: key for key in keys}, **values)


class BakingAnywhereTests(SynchronousTestCase):
    """Keys that sign blocks of any chain."""

    def test_chains(self) -> None:
        """A baking key without chains is warned of, one with chains or that never bakes is not."""
        baking = key_of(TZ3, [*GENERIC, *BLOCKS])
        (warning,) = cautions.baking_anywhere(settings_for(baking, key_of(TZ1, GENERIC)))
        self.assertTrue(warning.startswith(f"{TZ3} signs blocks and attestations of any chain"))
        self.assertIn("chains: [NetXdQprcVkpaWU] for mainnet", warning)
        named = evolve(baking, chains=frozenset(["NetXdQprcVkpaWU"]))
        self.assertEqual(cautions.baking_anywhere(settings_for(named)), [])
        only_baking = settings_for(evolve(baking, allowed_ops=frozenset(BLOCKS)))
        self.assertEqual(cautions.warnings_of(only_baking), (warning,))

    def test_everything_is_signed(self) -> None:
        """Without the policy check every key bakes."""
        off = Security(signing_policy_check=False)
        warnings = cautions.baking_anywhere(settings_for(key_of(TZ1, GENERIC), security=off))
        self.assertEqual(len(warnings), 1)

    def test_simulated(self) -> None:
        """A simulated HSM has nothing to lose."""
        settings = settings_for(key_of(TZ3, BLOCKS), store=None)
        self.assertEqual(cautions.baking_anywhere(settings), [])


class StoreTests(SynchronousTestCase):
    """Where the watermarks go."""

    def test_store(self) -> None:
        """What is amiss with the store is warned of, but not where it is left alone."""
        settings = settings_for(
            key_of(TZ1, BLOCKS, chains=frozenset()), store=EtcdAddress(("http://a:1",))
        )
        (warning,) = cautions.warnings_of(settings)
        self.assertIn("http://a:1: traffic is not encrypted", warning)
        simulated = evolve(settings, store=None)
        self.assertEqual(cautions.warnings_of(simulated), ())


class MissingCurveTests(SynchronousTestCase):
    """Authorized keys of a curve that the OpenSSL of this machine does not have."""

    def test_named_once(self) -> None:
        """One that is for all keys, or for one of them, is warned of once, and no other is."""
        without_curve(self, Curve.SECP256K1)
        for of_all, of_one in [((EDPK, SPPK), None), ((EDPK,), (SPPK,)), ((SPPK,), (SPPK, EDPK))]:
            key = key_of(TZ1, [], auth_req=True, authorized_keys=of_one)
            settings = settings_for(key, authorized_keys=of_all)
            (warning,) = cautions.warnings_of(settings)
            self.assertIn(f"nobody can authenticate with {SPPK} of authorized_keys: ", warning)
            self.assertIn("the OpenSSL of this machine has no SECP256K1", warning)


class OctezTests(SynchronousTestCase):
    """What octez-client makes of the authorized keys of all signing keys together."""

    def test_one_key_without(self) -> None:
        """auth_req: False beside a key that asks is told to have no effect."""
        asking, free = key_of(TZ3, GENERIC, auth_req=True), key_of(TZ1, GENERIC)
        (warning,) = cautions.asked_of_octez(settings_for(asking, free))
        self.assertIn(f"auth_req: False of {TZ1} has no effect for octez-client", warning)
        self.assertIn(f"since {TZ3} asks for authentication", warning)
        for settings in (
            settings_for(asking),
            settings_for(free, key_of(TZ2, GENERIC)),
            settings_for(asking, free, security=Security(auth_check=False)),
        ):
            self.assertEqual(cautions.asked_of_octez(settings), [])

    def test_different_keys(self) -> None:
        """Different authorized_keys want wallets with one of their secret keys each."""
        one = key_of(TZ1, GENERIC, auth_req=True, authorized_keys=(EDPK,))
        two = key_of(TZ2, GENERIC, auth_req=True, authorized_keys=(SPPK,))
        (warning,) = cautions.asked_of_octez(settings_for(one, two))
        self.assertIn("the first key of their wallet", warning)
        same = evolve(two, authorized_keys=(EDPK,))
        self.assertEqual(cautions.asked_of_octez(settings_for(one, same)), [])


class OpenTests(SynchronousTestCase):
    """Who can have something signed without showing anything."""

    def warned(self, http: str = OPEN, socket: str = "unix:/x", **more: Any) -> list[str]:
        """The warnings, of a key that spends without authentication."""
        key = more.pop("key", key_of(TZ1, GENERIC))
        return cautions.open_to_many(
            settings_for(key, http=(http,), octez_socket=(socket,), **more)
        )

    def test_anybody(self) -> None:
        """An open address, all addresses, no authentication: anybody can empty the account."""
        everywhere = (ip_network("0.0.0.0/0"),)
        self.assertEqual(
            self.warned(allowed_ips=everywhere),
            [
                f"ANYBODY who reaches {OPEN} can have {TZ1} sign any operation, also one that "
                "empties the account: close it by allowed_ips, auth_req: True or, for HTTP, "
                "request_token"
            ],
        )
        halves = (ip_network("0.0.0.0/1"), ip_network("128.0.0.0/1"))
        for more in (
            {"allowed_ips": (ip_network("::/0"),)},
            {"allowed_ips": halves},
            {"security": Security(remote_ip_check=False)},
            {"http": f"haproxy:{OPEN}"},
        ):
            (warning,) = self.warned(**more)
            self.assertTrue(warning.startswith("ANYBODY who reaches "), warning)
        # on both kinds of listener, each by itself
        self.assertEqual(len(self.warned(socket="tcp:7732", allowed_ips=everywhere)), 2)

    def test_networks(self) -> None:
        """A network is named; single machines and this one are not warned of."""
        net = (ip_network("10.0.0.0/24"), *LOOPBACK)
        (warning,) = self.warned(allowed_ips=net)
        self.assertTrue(warning.startswith(f"every machine of 10.0.0.0/24 that reaches {OPEN} "))
        for allowed in ((ip_network("10.0.0.1"),), LOOPBACK, (ip_network("127.0.0.0/8"),), ()):
            self.assertEqual(self.warned(allowed_ips=allowed), [])

    def test_protected(self) -> None:
        """Authentication, a token, client certificates and a private address each protect."""
        net = (ip_network("0.0.0.0/0"),)
        token = RequestToken("x-a", b"0123456789abcdef")
        tls = "ssl:6732:privateKey=k:certKey=c"
        asks = key_of(TZ1, GENERIC, auth_req=True)
        self.assertEqual(self.warned(allowed_ips=net, key=asks), [])
        self.assertEqual(self.warned(allowed_ips=net, request_token=token), [])
        self.assertEqual(
            len(self.warned("unix:/y", "tcp:1", allowed_ips=net, request_token=token)), 1
        )
        authority = ClientCa(Path("ca.pem"))
        self.assertEqual(self.warned(tls, allowed_ips=net, client_ca=authority), [])
        self.assertEqual(len(self.warned(OPEN, allowed_ips=net, client_ca=authority)), 1)
        self.assertEqual(self.warned("tcp:6732:interface=127.0.0.1", allowed_ips=net), [])
        never = key_of(TZ1, [Operation.AUTHENTICATION])
        self.assertEqual(self.warned(allowed_ips=net, key=never), [])
        off = Security(auth_check=False)
        self.assertEqual(len(self.warned(allowed_ips=net, key=asks, security=off)), 1)

    def test_what(self) -> None:
        """What a key signs is what clients of unknown addresses can have of it."""
        net = (ip_network("0.0.0.0/0"),)
        (warning,) = self.warned(allowed_ips=net, key=key_of(TZ3, BLOCKS))
        self.assertIn(f"have {TZ3} sign blocks and attestations, of levels", warning)
        self.assertNotIn("empties", warning)
        (warning,) = self.warned(allowed_ips=net, key=key_of(TZ3, [*GENERIC, *BLOCKS]))
        self.assertIn("empties the account, and blocks and attestations", warning)
        (warning,) = self.warned(allowed_ips=net, key=key_of(TZ1, [Operation.MICHELSON]))
        self.assertIn(f"have {TZ1} sign Michelson data, which contracts may take for", warning)
        self.assertNotIn("empties", warning)

    def test_unix(self) -> None:
        """A Unix socket is open to every user if its mode says so, and allowed_uids does not."""
        (warning,) = self.warned("unix:/y:mode=666", allowed_ips=())
        self.assertTrue(warning.startswith("EVERY USER of this machine, by unix:/y:mode=666, can"))
        self.assertEqual(self.warned("unix:/y:mode=660"), [])
        self.assertEqual(self.warned("unix:/y:mode=666", allowed_uids=frozenset([1])), [])


class AllTests(SynchronousTestCase):
    """All of them together."""

    def test_refusals(self) -> None:
        """What start-up refuses is refused."""
        settings = settings_for(key_of(TZ1, GENERIC))
        with self.assertRaises(StartupError):
            cautions.warnings_of(evolve(settings, http=("haproxy:haproxy:tcp:1",)))

    def test_from_the_document(self) -> None:
        """What the document itself gave cause for comes first."""
        settings = settings_for(key_of(TZ3, BLOCKS), warnings=("security.x is switched off",))
        warnings = cautions.warnings_of(settings)
        self.assertEqual(warnings[0], "security.x is switched off")
        self.assertEqual(len(warnings), 2)
