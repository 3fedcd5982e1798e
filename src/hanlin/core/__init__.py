"""Foundation: errors, files, text, records, progress."""
