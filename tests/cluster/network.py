"""The addresses of the test cluster. Its node lives in a network namespace of its own, joined to this machine."""

from __future__ import annotations

HOST = "10.243.0.1"
"""This machine, as pods and the node reach it."""
NODE = "10.243.0.2"
"""The node and its DNS server, as pods and this machine reach them."""
LINK_PREFIX = 30
PODS = "10.244.0.0/24"
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
DOMAIN = "cluster.local"
