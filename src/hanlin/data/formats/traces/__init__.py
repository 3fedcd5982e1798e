"""Answers that hold a whole trace: thoughts, calls and their results under headings."""
