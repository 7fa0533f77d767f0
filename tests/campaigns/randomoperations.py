"""Operation groups at random, as Octez' JSON: every kind, with numbers and lengths at the edges."""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from string import ascii_letters, digits, printable
from typing import Any

from attrs import field, frozen

from tests.support.forging import (
    BALLOTS,
    BLOCK,
    BLOCK_PAYLOAD,
    COMMITMENT,
    CONTEXT,
    NONCE,
    OPERATIONS,
    PROTOCOL,
    PUBLIC_KEYS,
    PVM_KINDS,
    ROLLUP,
    ROLLUP_STATE,
    SIGNATURES,
    SLOT_HEADER,
    ZK_ROLLUP,
    Forger,
)
from tests.support.genericpayloads import ENTRYPOINTS, PREFIXES, key_hash
from tests.support.octezclient import to_base58check
from tezio_signer.tezos.primitives import PRIMITIVES

Json = Any
NUMBERS = {name: number for number, name in enumerate(PRIMITIVES)}
"""The number of each primitive. That the names are right is shown by the forgers."""
MANAGER_KINDS = [
    "reveal",
    "transaction",
    "origination",
    "delegation",
    "register_global_constant",
    "set_deposits_limit",
    "increase_paid_storage",
    "update_consensus_key",
    "update_companion_key",
    "transfer_ticket",
    "smart_rollup_originate",
    "smart_rollup_add_messages",
    "smart_rollup_cement",
    "smart_rollup_publish",
    "smart_rollup_refute",
    "smart_rollup_timeout",
    "smart_rollup_execute_outbox_message",
    "smart_rollup_recover_bond",
    "dal_publish_commitment",
    "zk_rollup_origination",
    "zk_rollup_update",
]
KINDS = [
    *MANAGER_KINDS,
    "seed_nonce_revelation",
    "vdf_revelation",
    "double_consensus_operation_evidence",
    "double_baking_evidence",
    "dal_entrapment_evidence",
    "activate_account",
    "proposals",
    "ballot",
    "drain_delegate",
    "failing_noop",
    "preattestation",
    "attestation",
    "attestation_with_dal",
    "preattestations_aggregate",
    "attestations_aggregate",
    "bls_mode_preattestation",
    "bls_mode_attestation",
]
MOST_MUTEZ = 2**63 - 1
_INLINED = ["preattestation", "attestation", "attestation_with_dal"]
KEY_HASHES = [prefix for kind, prefix in PREFIXES.items() if kind.startswith("tz")]
"""The prefixes of tz1…, tz2…, in this order."""
_EDGES = [0, 1, 63, 64, 127, 128, 8191, 8192, 16383, 16384, 2**31 - 1, 2**32, MOST_MUTEZ]
_LONGEST_ENTRYPOINT = 31
_MOST_ARGUMENTS = 5
_MOST_PROPOSALS = 20
_NAME = ascii_letters + digits + "_"
_TEXT = "".join(c for c in printable if c == "\n" or c.isprintable())
_ANNOTATION = ascii_letters + digits + "_.%@"


@frozen
class Dialect:
    """What a forger can write, where it is not all that there is.

    :ivar primitives: the primitives of Michelson that it knows.
    :ivar kinds: the kinds of operations that it knows.
    :ivar key_types: how many of tz1, tz2, … and of their public keys it knows.
    :ivar most_signed: up to where it writes signed numbers rightly.
    :ivar arguments: how many of each primitive it can write at most; two of those that are not
        named. If it is empty, any number of all.
    """

    primitives: Sequence[str]
    kinds: Sequence[str]
    key_types: int = len(KEY_HASHES)
    most_signed: int = 2**128
    arguments: Mapping[str, int] = field(factory=dict)

    def most_arguments(self, primitive: str) -> int:
        """How many arguments of a primitive it can write."""
        return self.arguments.get(primitive, 2) if self.arguments else _MOST_ARGUMENTS


ANYTHING = Dialect([*NUMBERS], KINDS)
"""Without limits."""


def forged(group: Json) -> bytes:
    """What Octez would write for a group, without a magic byte."""
    return Forger(NUMBERS).group(group)


def primitives_in(value: Json) -> set[str]:
    """The primitives of all Micheline in a group."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    named = {value["prim"]} if isinstance(value, dict) and "prim" in value else set()
    return named.union(*map(primitives_in, parts))


@frozen
class RandomOperations:
    """Makes groups; the same `random` makes the same ones."""

    random: Random
    dialect: Dialect

    def group(self) -> Json:
        """One operation of any kind; or a batch, if it is a kind that may be in one."""
        kind = self.random.choice(self.dialect.kinds)
        kinds = [kind]
        if kind in MANAGER_KINDS and self.random.random() < 0.3:
            batched = [other for other in self.dialect.kinds if other in MANAGER_KINDS]
            kinds += self.random.choices(batched, k=self.random.randint(1, 7))
        return {"branch": self._base58(BLOCK, 32), "contents": [*map(self._content, kinds)]}

    def _content(self, kind: str) -> Json:
        header = self._header() if kind in MANAGER_KINDS else {}
        content = {"kind": kind, **header, **getattr(self, f"_{kind}")()}
        return {name: value for name, value in content.items() if value is not None}

    # -- values ----------------------------------------------------------------------------

    def _natural(self, most: int = MOST_MUTEZ) -> int:
        if self.random.random() < 0.5:
            return self.random.choice([edge for edge in [*_EDGES, most] if edge <= most])
        return self.random.getrandbits(self.random.randint(0, most.bit_length())) % (most + 1)

    def _mutez(self) -> str:
        return str(self._natural())

    def _signed(self) -> str:
        return str(self._natural(self.dialect.most_signed))

    def _int32(self) -> int:
        return self._natural(2**31 - 1)

    def _int16(self) -> int:
        return self._natural(2**16 - 1)

    def _hex(self, length: int) -> str:
        return self.random.randbytes(length).hex()

    def _bytes(self) -> str:
        return self._hex(self.random.choice((0, 1, 2, 31, 255, 256)))

    def _text(self) -> str:
        letters = self.random.choices(_TEXT, k=self.random.choice((0, 1, 2, 20, 127, 128)))
        return "".join(letters)

    def _maybe(self, make: Callable[[], Json]) -> Json:
        return make() if self.random.randrange(2) else None

    def _several(self, make: Callable[[], Json], most: int = 4) -> list[Json]:
        return [make() for _ in range(self.random.randint(0, most))]

    def _base58(self, prefix: bytes, length: int) -> str:
        return to_base58check(prefix, self.random.randbytes(length))

    def _key_hash(self) -> str:
        return self._base58(self.random.choice(KEY_HASHES[: self.dialect.key_types]), 20)

    def _contract(self) -> str:
        return self._base58(PREFIXES["KT1"], 20) if self.random.randrange(2) else self._key_hash()

    def _originated(self) -> str:
        return self._base58(PREFIXES["KT1"], 20)

    def _rollup(self) -> str:
        return self._base58(ROLLUP, 20)

    def _public_key(self) -> str:
        prefix, length = self.random.choice(list(PUBLIC_KEYS.values())[: self.dialect.key_types])
        data = self.random.randbytes(length)
        if length == 33:  # a compressed point: whether y is odd, then x
            data = bytes([self.random.choice((2, 3))]) + data[1:]
        return to_base58check(prefix, data)

    def _proof(self) -> Json:
        return self._maybe(lambda: self._base58(*SIGNATURES["BLsig"]))

    def _entrypoint(self) -> str:
        if self.random.randrange(2):
            return self.random.choice(ENTRYPOINTS)
        length = self.random.choice((1, 2, 8, _LONGEST_ENTRYPOINT))
        return "".join(self.random.choices(_NAME, k=length))

    # -- Micheline -------------------------------------------------------------------------

    def expression(self, depth: int = 4) -> Json:
        """Micheline, no deeper than that."""
        choice = self.random.randrange(8 if depth else 4)
        match choice:
            case 0:
                return {"int": str(self._natural(2**256) * self.random.choice((1, 1, -1)))}
            case 1:
                return {"string": self._text()}
            case 2:
                return {"bytes": self._bytes()}
            case 4:
                return self._several(lambda: self.expression(depth - 1))
            case _:
                return self._application(depth)

    def _application(self, depth: int) -> Json:
        primitive = self.random.choice(self.dialect.primitives)
        most = self.dialect.most_arguments(primitive) if depth else 0
        applied: dict[str, Json] = {"prim": primitive}
        arguments = self._several(lambda: self.expression(depth - 1), most)
        if arguments:
            applied["args"] = arguments
        if annotations := self._several(self._annotation, 2):
            applied["annots"] = annotations
        return applied

    def _annotation(self) -> str:
        name = "".join(self.random.choices(_ANNOTATION, k=self.random.choice((0, 1, 5, 60))))
        return self.random.choice("%:@") + name

    # -- manager operations ----------------------------------------------------------------

    def _header(self) -> Json:
        names = "fee", "counter", "gas_limit", "storage_limit"
        return {"source": self._key_hash(), **{name: self._mutez() for name in names}}

    def _reveal(self) -> Json:
        return {"public_key": self._public_key(), "proof": self._proof()}

    def _update_consensus_key(self) -> Json:
        return {"pk": self._public_key(), "proof": self._proof()}

    _update_companion_key = _update_consensus_key

    def _transaction(self) -> Json:
        return {
            "amount": self._mutez(),
            "destination": self._contract(),
            "parameters": self._maybe(self._parameters),
        }

    def _parameters(self) -> Json:
        value = self.expression()
        if isinstance(value, dict) and value.get("prim") == "Unit":
            return None  # forgers differ about what of it is left out
        return {"entrypoint": self._entrypoint(), "value": value}

    def _delegation(self) -> Json:
        return {"delegate": self._maybe(self._key_hash)}

    def _register_global_constant(self) -> Json:
        return {"value": self.expression()}

    def _set_deposits_limit(self) -> Json:
        return {"limit": self._maybe(self._mutez)}

    def _origination(self) -> Json:
        return {
            "balance": self._mutez(),
            "delegate": self._maybe(self._key_hash),
            "script": {"code": self.expression(), "storage": self.expression()},
        }

    def _increase_paid_storage(self) -> Json:
        return {"amount": self._signed(), "destination": self._originated()}

    def _transfer_ticket(self) -> Json:
        return {
            "ticket_contents": self.expression(),
            "ticket_ty": self.expression(),
            "ticket_ticketer": self._contract(),
            "ticket_amount": str(self._natural(2**128) + 1),
            "destination": self._contract(),
            "entrypoint": self._entrypoint(),
        }

    def _smart_rollup_originate(self) -> Json:
        return {
            "pvm_kind": self.random.choice(PVM_KINDS),
            "kernel": self._bytes(),
            "parameters_ty": self.expression(),
            "whitelist": self._maybe(lambda: self._several(self._key_hash)),
        }

    def _smart_rollup_add_messages(self) -> Json:
        return {"message": self._several(self._bytes)}

    def _smart_rollup_cement(self) -> Json:
        return {"rollup": self._rollup()}

    def _smart_rollup_publish(self) -> Json:
        commitment = {
            "compressed_state": self._base58(ROLLUP_STATE, 32),
            "inbox_level": self._int32(),
            "predecessor": self._base58(COMMITMENT, 32),
            "number_of_ticks": str(self._natural()),
        }
        return {"rollup": self._rollup(), "commitment": commitment}

    def _smart_rollup_refute(self) -> Json:
        refutation: Json
        if self.random.randrange(2):
            refutation = {
                "refutation_kind": "start",
                "player_commitment_hash": self._base58(COMMITMENT, 32),
                "opponent_commitment_hash": self._base58(COMMITMENT, 32),
            }
        else:
            refutation = {
                "refutation_kind": "move",
                "choice": str(self._natural(2**80)),
                "step": self._several(self._section) if self.random.randrange(2) else self._step(),
            }
        return {
            "rollup": self._rollup(),
            "opponent": self._key_hash(),
            "refutation": refutation,
        }

    def _section(self) -> Json:
        state = self._maybe(lambda: self._base58(ROLLUP_STATE, 32))
        tick = {"tick": str(self._natural(2**80))}
        return tick if state is None else {"state": state, **tick}

    def _step(self) -> Json:
        return {"pvm_step": self._bytes(), "input_proof": self._maybe(self._input_proof)}

    def _input_proof(self) -> Json:
        page = {
            "published_level": self._int32(),
            "slot_index": self._natural(255),
            "page_index": self._natural(2**15 - 1),
        }
        reveal = self.random.choice(
            [
                {"reveal_proof_kind": "raw_data_proof", "raw_data": self._bytes()},
                {"reveal_proof_kind": "metadata_proof"},
                {
                    "reveal_proof_kind": "dal_page_proof",
                    "dal_page_id": page,
                    "dal_proof": self._bytes(),
                },
                {"reveal_proof_kind": "dal_parameters_proof"},
            ]
        )
        inbox = {"level": self._int32(), "message_counter": str(self._natural(2**80))}
        return self.random.choice(
            [
                {"input_proof_kind": "inbox_proof", **inbox, "serialized_proof": self._bytes()},
                {"input_proof_kind": "reveal_proof", "reveal_proof": reveal},
                {"input_proof_kind": "first_input"},
            ]
        )

    def _smart_rollup_timeout(self) -> Json:
        lower, higher = sorted((self._key_hash(), self._key_hash()), key=key_hash)
        return {"rollup": self._rollup(), "stakers": {"alice": lower, "bob": higher}}

    def _smart_rollup_execute_outbox_message(self) -> Json:
        return {
            "rollup": self._rollup(),
            "cemented_commitment": self._base58(COMMITMENT, 32),
            "output_proof": self._bytes(),
        }

    def _smart_rollup_recover_bond(self) -> Json:
        return {"rollup": self._rollup(), "staker": self._key_hash()}

    def _dal_publish_commitment(self) -> Json:
        header = {
            "slot_index": self._natural(255),
            "commitment": self._base58(SLOT_HEADER, 48),
            "commitment_proof": self._hex(96),
        }
        return {"slot_header": header}

    def _scalars(self) -> Json:
        return self._several(lambda: self._hex(32), 2)

    def _zk_rollup_origination(self) -> Json:
        return {
            "public_parameters": self._bytes(),
            "circuits_info": self._several(
                lambda: [self._bytes(), self.random.choice(("public", "private", "fee"))]
            ),
            "init_state": self._scalars(),
            "nb_ops": self._natural(2**30 - 1),
        }

    def _zk_rollup_update(self) -> Json:
        def inputs() -> Json:
            return {"new_state": self._scalars(), "fee": self._hex(32)}

        def pending() -> Json:
            return [self._bytes(), {**inputs(), "exit_validity": self.random.randrange(2) == 1}]

        update = {
            "pending_pis": self._several(pending),
            "private_pis": self._several(lambda: [self._bytes(), inputs()]),
            "fee_pi": self._scalars(),
            "proof": self._bytes(),
        }
        return {"zk_rollup": self._base58(ZK_ROLLUP, 20), "update": update}

    # -- others ----------------------------------------------------------------------------

    def _seed_nonce_revelation(self) -> Json:
        return {"level": self._int32(), "nonce": self._hex(32)}

    def _vdf_revelation(self) -> Json:
        return {"solution": [self._hex(100), self._hex(100)]}

    def _failing_noop(self) -> Json:
        return {"arbitrary": self._text().encode().hex()}

    def _activate_account(self) -> Json:
        return {"pkh": self._base58(KEY_HASHES[0], 20), "secret": self._hex(20)}

    def _proposal(self) -> str:
        return self._base58(PROTOCOL, 32)

    def _proposals(self) -> Json:
        proposals = self._several(self._proposal, _MOST_PROPOSALS)
        return {"source": self._key_hash(), "period": self._int32(), "proposals": proposals}

    def _ballot(self) -> Json:
        return {
            "source": self._key_hash(),
            "period": self._int32(),
            "proposal": self._proposal(),
            "ballot": self.random.choice(BALLOTS),
        }

    def _drain_delegate(self) -> Json:
        return {name: self._key_hash() for name in ("consensus_key", "delegate", "destination")}

    def _preattestation(self) -> Json:
        return {"slot": self._int16(), **self._bls_mode_preattestation()}

    def _bls_mode_preattestation(self) -> Json:
        return {
            "level": self._int32(),
            "round": self._int32(),
            "block_payload_hash": self._base58(BLOCK_PAYLOAD, 32),
        }

    _attestation = _preattestation
    _bls_mode_attestation = _bls_mode_preattestation

    def _attestation_with_dal(self) -> Json:
        return {**self._preattestation(), "dal_attestation": self._signed()}

    def _attester(self) -> Json:
        dal = self._maybe(self._signed)
        return {"slot": self._int16()} | ({} if dal is None else {"dal_attestation": dal})

    def _aggregate(self, member: Callable[[], Json]) -> Json:
        return {
            "consensus_content": self._bls_mode_preattestation(),
            "committee": self._several(member),
        }

    def _preattestations_aggregate(self) -> Json:
        return self._aggregate(self._int16)

    def _attestations_aggregate(self) -> Json:
        return self._aggregate(self._attester)

    def _double_consensus_operation_evidence(self) -> Json:
        return {"slot": self._int16(), "op1": self._inlined(), "op2": self._inlined()}

    def _inlined(self) -> Json:
        kind = self.random.choice([kind for kind in _INLINED if kind in self.dialect.kinds])
        signed = self._maybe(lambda: self._base58(*SIGNATURES["sig"]))
        operation = {"branch": self._base58(BLOCK, 32), "operations": self._content(kind)}
        return operation if signed is None else {**operation, "signature": signed}

    def _double_baking_evidence(self) -> Json:
        return {"bh1": self._block_header(), "bh2": self._block_header()}

    def _block_header(self) -> Json:
        return {
            "level": self._int32(),
            "proto": self._natural(255),
            "predecessor": self._base58(BLOCK, 32),
            "timestamp": str(self._natural(2**63 - 1) * self.random.choice((1, -1))),
            "validation_pass": self._natural(255),
            "operations_hash": self._base58(OPERATIONS, 32),
            "fitness": self._several(self._bytes),
            "context": self._base58(CONTEXT, 32),
            "payload_hash": self._base58(BLOCK_PAYLOAD, 32),
            "payload_round": self._int32(),
            "proof_of_work_nonce": self._hex(8),
            "seed_nonce_hash": self._maybe(lambda: self._base58(NONCE, 32)),
            "per_block_votes": self._natural(255),
            "signature": self._maybe(lambda: self._base58(*SIGNATURES["sig"])),
        }

    def _dal_entrapment_evidence(self) -> Json:
        """As protocol 025 has it, or without the lag, as 024."""
        lag = {"lag_index": self._maybe(lambda: self._natural(255))}
        return {
            "attestation": self._inlined(),
            "consensus_slot": self._int16(),
            "slot_index": self._natural(255),
            **(lag if self.random.randrange(2) else {}),
            "shard_with_proof": {
                "shard": [self._natural(2**30 - 1), self._scalars()],
                "proof": self._hex(48),
            },
        }
