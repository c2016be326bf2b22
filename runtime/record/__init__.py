"""What a run leaves behind: metrics, tables, pictures, provenance, rows of the ledger."""
