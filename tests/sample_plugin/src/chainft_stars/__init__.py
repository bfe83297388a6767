"""Star ratings of texts, for chainft."""
