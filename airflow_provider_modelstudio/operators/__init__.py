"""Operators: declarations over one engine."""
