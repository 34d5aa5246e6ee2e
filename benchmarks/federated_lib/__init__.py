"""Parts of `federated.py`, which is a script and not a package."""
