"""Histories of one to three signers in one process, in which a seed decides all that happens.

    python -m tests.campaigns.histories --steps 1000000
    python -m tests.campaigns.histories --exhaustive
    python -m tests.campaigns.histories --bug all

The real signer, watermarks, stores and pool of boards run on one clock, against an etcd, a disk
and boards in memory. What happens next is one of the events that the world offers: a message
arrives, is lost, doubled or late, a daemon crashes, pauses or starts again, a client leaves, an
operator moves a mark, a disk fails, a board loses its power. A history is the list of its
events: its seed makes it again, and one that fails is shortened to the events that it needs.

`world` holds everything; `network`, `boards`, `etcd`, `disk` and `daemons` are its parts. `offers`
says what may happen next, `random_search` and `exhaustive` choose from it, `ending` ends all
faults, and `referee` judges what clients receive. `bugs` are planted to see that it notices.
"""
