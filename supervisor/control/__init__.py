"""The control socket: its server, its two APIs and its client."""
