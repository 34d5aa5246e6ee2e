"""The page about a finished run: `page` assembles what `sections` and `charts` draw."""
