"""Tests of the watermark rule, the claims and the stores."""
