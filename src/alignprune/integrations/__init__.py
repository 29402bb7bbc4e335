"""Adapters for the trainers that people use; each is imported only when it is used."""
