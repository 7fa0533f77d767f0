"""Tests of Tezio Signer; run them with `make test` or `python -m twisted.trial tests`."""

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # where they are not run: `make page` wants a table of theirs
    pass
else:
    # How long an example takes says more of what else the machine does than of the code.
    _NO_HURRY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("no hurry", _NO_HURRY)
    settings.load_profile("no hurry")
