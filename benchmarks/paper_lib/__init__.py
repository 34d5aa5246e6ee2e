"""Parts of `paper_tables.py` and `paper_report.py`; not installed."""
