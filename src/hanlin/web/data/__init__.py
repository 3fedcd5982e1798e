"""Data on the page: records page by page, search, the ledger, near copies, tokens, corrections in an overlay."""
