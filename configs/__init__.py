"""Packaged configurations: `palaestra train tiny` finds `tiny.toml` here."""
