"""Tests of the room `watermarks/etcd`."""
