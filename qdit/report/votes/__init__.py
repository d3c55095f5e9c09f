"""Blind comparison of images by people: the page and its statistics."""
