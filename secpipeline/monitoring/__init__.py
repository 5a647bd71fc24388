"""Watching a deployed detector: does it still see what it was released on, and behave as it did?"""
