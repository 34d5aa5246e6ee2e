"""A whole run: prepared, estimated, resumed, evaluated and written to its directory."""
