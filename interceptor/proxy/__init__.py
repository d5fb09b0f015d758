"""The data plane: captured connections in, tunnels out, and back. **Does I/O**, on sockets that it is handed.

outbound          a workload connects: original destination, verdict, tunnel
inbound           a tunnel arrives: peer identity, verdict, the application
inbound_plaintext a connection without identity arrives: verdict, the application
relay             bytes both ways, with half-close and reset as they are
"""
