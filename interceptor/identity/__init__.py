"""Who a workload is and how it proves it: SPIFFE IDs, SVIDs, trust bundles, the authority. Pure: no I/O, no clock."""
