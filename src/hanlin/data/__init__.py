"""From data files to records: reading, cleaning, deduplication, and a ledger of every row.

Records are documents, conversations, preferences and unpaired preferences. Token ids belong to `hanlin.chat` and
`hanlin.train.dataset`.
"""
