"""Addresses and networks as the configuration writes them."""

from ipaddress import IPv4Network, IPv6Network, ip_network

_MAPPED = IPv6Network("::ffff:0:0/96")


def network_of(text: str) -> IPv4Network | IPv6Network:
    """An address or a network of `allowed_ips`; raises ValueError.

    What maps IPv4 into IPv6 (`::ffff:10.0.0.0/104`) means IPv4, as the addresses of peers do.
    """
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        address = network.network_address.ipv4_mapped
        return IPv4Network((int(address or 0), network.prefixlen - _MAPPED.prefixlen))
    return network
