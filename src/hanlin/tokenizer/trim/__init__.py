"""Trim a vocabulary to the entries that some texts need, and verify that nothing else changed."""
