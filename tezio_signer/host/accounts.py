"""The names of users and groups, as they are told to an operator."""

from grp import getgrgid
from pwd import getpwuid


def user_name(uid: int) -> str:
    """The name of a user, or the number without a name."""
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """The name of a group, or the number without a name."""
    try:
        return getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
