"""What vocabularies make of texts: characters per token, what each thousand entries gains, what they cost."""
