"""The modules that carry the safety, and the tests that are to notice a change in each."""

from attrs import frozen

_PROMISES = ("watermarks.test_conformance", "watermarks.test_model")


@frozen
class Room:
    """A part of the code with one subject.

    :ivar modules: what is changed.
    :ivar tests: what is run, the quickest and the likeliest to notice first; modules below
        `tests`. None of them starts a process, which would run the code as it is.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]


ROOMS = {
    "rule": Room(
        ("tezio_signer.watermarks.rule",),
        ("watermarks.test_rule", "watermarks.test_claims", *_PROMISES),
    ),
    "claims": Room(
        (
            "tezio_signer.watermarks.claims",
            "tezio_signer.watermarks.heldmark",
            "tezio_signer.watermarks.readingloop",
        ),
        (
            "watermarks.test_readingloop",
            "watermarks.test_claims",
            "watermarks.test_sharedclaims",
            "watermarks.test_recovery",
            "watermarks.test_heldmark",
            "test_signer_store",
            "test_resource_watermarks",
            *_PROMISES,
        ),
    ),
    "sqlite": Room(
        (
            "tezio_signer.watermarks.sqlite.store",
            "tezio_signer.watermarks.sqlite.reading",
            "tezio_signer.watermarks.sqlite.rows",
            "tezio_signer.watermarks.sqlite.schema",
            "tezio_signer.watermarks.sqlite.storefile",
            "tezio_signer.watermarks.sqlite.creating",
            "tezio_signer.watermarks.sqlite.lockfile",
            "tezio_signer.watermarks.sqlite.logfile",
            "tezio_signer.watermarks.sqlite.carrying",
            "tezio_signer.watermarks.sqlite.grouped",
        ),
        (
            "watermarks.sqlite.test_store",
            "watermarks.sqlite.test_reading",
            "watermarks.sqlite.test_schema",
            "watermarks.sqlite.test_beneath",
            "watermarks.sqlite.test_storefile",
            "watermarks.sqlite.test_grouped",
            "watermarks.sqlite.test_lockfile",
            "watermarks.sqlite.test_creating",
            "watermarks.sqlite.test_oldercopy",
            "watermarks.sqlite.test_locking",
            "watermarks.sqlite.test_logfile",
            "watermarks.sqlite.test_carrying",
            *_PROMISES,
        ),
    ),
    "ledger": Room(
        (
            "tezio_signer.watermarks.entry",
            "tezio_signer.watermarks.book",
            "tezio_signer.watermarks.ledger",
            "tezio_signer.watermarks.etcd.spending",
        ),
        (
            "watermarks.test_book",
            "watermarks.test_ledger",
            "watermarks.etcd.test_spending",
            "watermarks.test_transfer",
            "watermarks.sqlite.test_carrying",
            "rules.test_perday",
        ),
    ),
    "etcd": Room(
        (
            "tezio_signer.watermarks.etcd.store",
            "tezio_signer.watermarks.etcd.answers",
            "tezio_signer.watermarks.etcd.questions",
        ),
        (
            "watermarks.etcd.test_store",
            "watermarks.etcd.test_seen",
            "watermarks.etcd.test_damage",
            "watermarks.etcd.test_answers",
            "watermarks.etcd.test_gateway",
            *_PROMISES,
        ),
    ),
    "signer": Room(
        ("tezio_signer.signer", "tezio_signer.inflight"),
        (
            "test_signer",
            "test_signer_store",
            "test_signer_device",
            "test_signer_races",
            "test_signer_decisions",
            "test_inflight_unsigned",
            "test_resource",
            "listeners.test_unknownaddress",
        ),
    ),
    "reloading": Room(
        (
            "tezio_signer.reloading",
            "tezio_signer.configuration",
            "tezio_signer.config.changes",
            "tezio_signer.startup.source",
        ),
        (
            "test_reloading",
            "config.test_changes",
            "startup.test_source",
            "test_signer_races",
            "listeners.test_admission",
        ),
    ),
    "policy": Room(
        (
            "tezio_signer.policy",
            "tezio_signer.request",
            "tezio_signer.config.networks",
            "tezio_signer.rules.rule",
            "tezio_signer.rules.verdict",
            "tezio_signer.rules.access",
            "tezio_signer.rules.operations",
            "tezio_signer.rules.rate",
            "tezio_signer.rules.watermark",
        ),
        (
            "test_policy",
            "test_request",
            "config.test_networks",
            "rules.test_verdict",
            "rules.test_access",
            "rules.test_operations",
            "rules.test_rate",
            "rules.test_watermark",
            "listeners.test_admission",
        ),
    ),
    "contents": Room(
        (
            "tezio_signer.config.operations",
            "tezio_signer.rules.contents",
            "tezio_signer.rules.generic",
            "tezio_signer.rules.perday",
        ),
        (
            "rules.test_table",
            "config.test_operations",
            "rules.test_generic",
            "rules.test_perday",
            "rules.test_contents",
        ),
    ),
    "decision": Room(
        ("tezio_signer.decision", "tezio_signer.listeners.peers"),
        (
            "test_decision",
            "listeners.test_admission",
            "listeners.test_peers",
            "listeners.test_proxyprotocol",
        ),
    ),
    "audit": Room(
        ("tezio_signer.audit.chain", "tezio_signer.audit.verifying"),
        ("audit.test_chain", "audit.test_verifying"),
    ),
    "auditfiles": Room(("tezio_signer.audit.files",), ("audit.test_files",)),
    "auditlog": Room(("tezio_signer.audit.service",), ("audit.test_service",)),
    "serialhsm": Room(
        ("tezio_signer.serialhsm",),
        ("test_serialhsm", "test_serialport", "hsm.test_device", "hsm.test_pool"),
    ),
    "hsmpool": Room(
        (
            "tezio_signer.hsm.pool",
            "tezio_signer.hsm.signing",
            "tezio_signer.hsm.discovery",
            "tezio_signer.hsm.nonces",
        ),
        (
            "hsm.test_signing",
            "hsm.test_nonces",
            "hsm.test_pool_queue",
            "hsm.test_pool_boards",
            "hsm.test_pool_looking",
            "hsm.test_pool_waiting",
            "hsm.test_pool",
            "test_signer_device",
        ),
    ),
    "framing": Room(
        ("tezio_signer.hsm.framing",),
        ("hsm.test_framing", "test_serialhsm", "hsm.test_device"),
    ),
    "payload": Room(
        ("tezio_signer.tezos.payload", "tezio_signer.tezos.binary"),
        ("tezos.test_payload", "tezos.test_binary", "octez.test_messages", "test_request"),
    ),
    "operations": Room(
        (
            "tezio_signer.tezos.operations",
            "tezio_signer.tezos.layout",
            "tezio_signer.tezos.kinds",
            "tezio_signer.tezos.entrypoints",
            "tezio_signer.tezos.evidence",
            "tezio_signer.tezos.groups",
        ),
        ("tezos.test_layout", "tezos.test_kinds", "tezos.test_groups", "tezos.test_operations"),
    ),
    "keys": Room(
        ("tezio_signer.tezos.keys",),
        ("tezos.test_keys", "tezos.test_base58check", "rules.test_access"),
    ),
}
