"""Tests of the HSM's packets and of the simulated HSM."""
