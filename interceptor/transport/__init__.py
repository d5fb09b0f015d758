"""Byte streams over sockets that it is handed, in plaintext and in TLS. **Does I/O.**

sockets             accepting and tuning, for whatever purpose
streams             what a stream is, and the plaintext one
tls                 the door to OpenSSL, and the contexts of workloads
infrastructure_tls  the contexts of nodes and of the authority
"""
