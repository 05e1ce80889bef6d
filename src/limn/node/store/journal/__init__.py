"""The journal of scans (SQLite): tables, rows, states and transitions, reader and writer."""
