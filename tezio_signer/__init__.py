"""Tezio Signer: an Octez remote signer for the Tezio HSM."""

__version__ = "1.0.0"
