"""Histories that have broken a rule once, as they were printed; no one of them does any more."""

FOUND = {
    "a backup is put back twice, and an operator has set a lower mark between": (
        """\
{"setup": {"daemons": 1, "shared": true, "boards": 1, "marks": [2], "sides": 2, "kinds": []},
"events": [["ask", "d0", 2], ["arrive", "d0>b0x", 0], ["arrive", "b0x>d0", 0],
["arrive", "d0>etcd", 0], ["arrive", "etcd>d0", 0], ["arrive", "d0>etcd", 0],
["arrive", "etcd>d0", 0], ["pause", "d0", 0], ["resume", "d0", 1], ["restore", "", 0],
["arrive", "d0>etcd.r", 0], ["raise", "", 0], ["arrive", "etcd.r>d0", 0],
["arrive", "d0>etcd.r", 0], ["arrive", "etcd.r>d0", 0], ["time", "", 0], ["restore", "", 0]]}"""
    ),
}
"""By what happens in them. The mark that was written back the second time was the lower one."""
