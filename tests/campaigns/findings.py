"""What a campaign has found that must not be there."""

from collections.abc import Collection, Mapping

Findings = Mapping[str, Collection[str]]
"""Sentences by what is wrong."""
_TOLD = 5


def tell(findings: Findings) -> None:
    """Print how many there are of each kind, and the first of them."""
    print(", ".join(f"{name}: {len(found)}" for name, found in findings.items()))
    for found in findings.values():
        for finding in sorted(found)[:_TOLD]:
            print(f"  {finding}")
