"""The dashboard's row about the authority that is served: `ca serve --metrics` exposes what it asks for."""

from typing import Final

from interceptor.telemetry.panel import Panel, Query, Row

AUTHORITY: Final = Row(
    "The authority's service",
    (
        Panel(
            "Certificates issued",
            "For workloads, nodes, and the service itself.",
            (
                Query(
                    "sum by (kind) (rate(interceptor_authority_certificates_issued_total[$__rate_interval]))",
                    "{{kind}}",
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Refusals",
            "By their code; its audit.jsonl says who asked for what.",
            (
                Query(
                    "sum by (code) (rate(interceptor_authority_refusals_total[$__rate_interval])) > 0",
                    "{{code}}",
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Nodes",
            "Current: they use the trust bundle of now. Waited for: by the next step of a rotation.",
            (
                Query("sum by (state) (interceptor_authority_nodes)", "{{state}}"),
                Query(
                    "sum by (phase) (interceptor_authority_rotation_waiting_nodes)",
                    "waited for, rotation {{phase}}",
                ),
            ),
        ),
        Panel(
            "Intermediate is to be renewed in",
            "Below zero it was not: put the root key back where it is elsewhere.",
            (
                Query("interceptor_authority_intermediate_renewal_due_seconds - time()", "{{instance}}"),
                Query("interceptor_authority_root_key_present", "root key is here, {{instance}}"),
            ),
            unit="s",
            width=12,
        ),
        Panel(
            "Can it go on?",
            "Nothing is issued while the audit cannot be written, or the database was not read for ten seconds.",
            (
                Query("interceptor_authority_audit_writable", "audit written, {{instance}}"),
                Query("interceptor_authority_store_unread_seconds", "seconds since a look, {{instance}}"),
            ),
            width=12,
        ),
    ),
)
