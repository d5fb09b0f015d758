"""Byte streams over sockets that it is handed, in plaintext and in TLS. **Does I/O.**

streams  what a stream is, and the plaintext one
tls      the one door to OpenSSL
"""
