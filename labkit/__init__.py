"""Helpers of the Energy Lab: what every notebook needs and none should explain again."""
