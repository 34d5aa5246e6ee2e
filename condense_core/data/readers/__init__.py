"""Readers behind the names of `condense_core.data.sources`, one module per kind."""
