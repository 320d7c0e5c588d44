"""Readers of on-disk layouts that would make a dataset's own file too long, or that several datasets share."""
