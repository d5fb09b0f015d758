"""The tunnel's handshake: bytes in, events out. **Pure.**"""
