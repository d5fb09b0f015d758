"""Transparent mutual TLS for the workloads of a Linux node.

cli         commands
agent       the composition root: builds everything below and joins it
kernel      BPF programs, network namespaces, links, routes       | does I/O
proxy       connections: outbound, inbound, relay, TLS            | does I/O
credentials, authority_store, admin, metrics_server               | does I/O
authority_service, authority_client: what nodes ask, over HTTPS   | does I/O
transport, line_file: TLS, byte streams, files of lines           | does I/O
config, telemetry, authority, enrolment, policy, protocol         | pure
workload, identity, errors                                        | pure
"""

__version__ = "0.1.0"
