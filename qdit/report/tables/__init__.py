"""Compute the tables; each kind of table has one module."""
