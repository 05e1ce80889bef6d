"""What survives: the journal, the spool, the scan log."""
