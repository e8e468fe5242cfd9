"""Decides and waits: the supervision tree, the app file, the control socket and the commands."""

DISTRIBUTION = "creche"
