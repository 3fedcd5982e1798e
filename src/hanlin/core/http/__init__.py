"""HTTP to servers of others: their addresses, and the one place that makes clients."""
