"""Rendering of pages that are written as files, and their templates."""
