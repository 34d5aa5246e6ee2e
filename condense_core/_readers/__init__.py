"""Readers behind the names of `condense_core.sources`, one module per kind."""
