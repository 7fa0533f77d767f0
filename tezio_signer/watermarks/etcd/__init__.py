"""Watermarks in an etcd cluster."""
