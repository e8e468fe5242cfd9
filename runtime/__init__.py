"""Isolates and runs: one container's namespaces, root, limits, processes and logs."""

DISTRIBUTION = "creche"
