"""What is known of a text: characters, n-grams, script, language."""
