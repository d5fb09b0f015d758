"""Who a node is, and whose certificates it may have, by what the Kubernetes API shows.

Rules only: the pods are a snapshot that somebody else keeps, the API's answers are bytes that somebody else got.
"""
