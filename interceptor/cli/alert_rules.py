"""alert-rules: what Prometheus should watch."""

from __future__ import annotations

from importlib import resources

import click


@click.command("alert-rules")
def alert_rules() -> None:
    """Print alerting rules for Prometheus: certificates, authorities, trust bundle, traffic.

    \b
    Examples:
      interceptor alert-rules > /etc/prometheus/rules/interceptor.yml
    """
    click.echo(resources.files("interceptor.telemetry").joinpath("alert_rules.yaml").read_text(), nl=False)
