"""The kernel's side: BPF programs and maps, network namespaces, links, routes, socket options. **Does I/O.**"""
