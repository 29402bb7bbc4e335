"""One run: what it depends on, its training and what it leaves in its folder."""
