"""Conditions, their reasons, and the events about them."""
