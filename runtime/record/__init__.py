"""Results of a run: metrics, tables, pictures, provenance, the ledger."""
