"""What `record.py` records, one module per part of the library."""
