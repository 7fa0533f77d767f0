"""Tests of Tezio Signer; run them with `make test` or `python -m twisted.trial tests`."""
