"""What kernels before Linux 5.17 run: whom the kubelet's probes come from (see `test_probes`)."""

from __future__ import annotations

from tests.kernel.test_probes import (  # noqa: F401
    pod,
    pytestmark,
    test_kubelets_connection_to_another_port_is_the_proxys,
    test_other_namespace_with_the_kubelets_address_is_the_proxys,
    test_other_process_of_the_host_is_the_proxys,
    test_port_that_a_probe_had_is_worth_nothing_afterwards,
    test_probe_of_a_declared_port_reaches_the_application,
)

IS_OLDER = True
