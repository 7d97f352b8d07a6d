"""TaskFlow functions that return what to ask."""
