"""Tests of Tezio Signer; run them with `trial tests`."""
