"""Parts of `frontier.py` and `frontier_report.py`; not installed."""
