"""Formats of public agent data that write calls or tools in a way of their own."""
