"""Parts of `continual.py` and `continual_report.py`; not installed."""
