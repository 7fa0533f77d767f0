"""Tests of keys, signatures and payloads."""
