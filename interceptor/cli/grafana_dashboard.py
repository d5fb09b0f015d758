"""grafana-dashboard: what a person should look at."""

from __future__ import annotations

import click

from interceptor.cli.output import json_text
from interceptor.telemetry.grafana import dashboard


@click.command("grafana-dashboard")
def grafana_dashboard() -> None:
    """Print a dashboard for Grafana: traffic, denials, handshakes, certificates and authorities.

    Its data source is a Prometheus that scrapes the agents; which one is chosen in Grafana.

    \b
    Examples:
      interceptor grafana-dashboard > /var/lib/grafana/dashboards/interceptor.json
    """
    click.echo(json_text(dashboard()))
