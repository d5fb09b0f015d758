"""What the authority decides: who may ask for what, tokens, rotation, the documents that travel. Pure: no I/O, no clock."""
