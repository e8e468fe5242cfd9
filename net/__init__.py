"""Wires: addresses, links, published ports and the one nftables table of an app."""

DISTRIBUTION = "creche"
