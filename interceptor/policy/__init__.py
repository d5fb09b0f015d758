"""Encrypt or not, allow or not: the one place that decides, and the closed set of reasons. **Pure.**"""
