"""Text as tasks see it: words, sub-words, windows, tags and entities."""
