"""The launcher: the small warm process that clones, holds and reaps containers."""
