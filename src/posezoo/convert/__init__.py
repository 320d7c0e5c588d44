"""The authors' released checkpoints as weights of posezoo. Nothing here runs code from a file.

The licence of such weights is their authors'; posezoo neither ships nor fetches them, and writes the terms that the
user names into what it makes.
"""
