"""Tezos values without I/O: Base58Check, keys, signatures and payloads."""
