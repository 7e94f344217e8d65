"""Rules that remove what does nothing."""
