"""Two workloads as services of their own, that begin with the machine: a web server, and a client that keeps asking it.

Over IPv4 and over IPv6, in turn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vagrant.scenarios.box import Box

_UNIT = """\
[Unit]
After=interceptor.service
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/local/bin/interceptor run --service-account {name} --name {name} -- {command}
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""
_WEB = "python3 -m http.server 80 --bind :: --directory /srv/web"
_ASK = """\
#!/bin/sh
ask() { curl -sS --max-time 5 "$1" http://web/; }
while sleep 0.5; do ask -4 >/run/answer && ask -6 >>/run/answer && date +%s >/run/answered; done
"""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who asks, who answers, and what must be seen at the one and nowhere between."""

    client: Box
    web: Box
    secret: str

    def start(self) -> None:
        self.web.check(f"mkdir -p /srv/web && echo '{self.secret}' >/srv/web/index.html")
        self.client.write("/usr/local/bin/ask", _ASK, mode="0755")
        for node, name, command in ((self.web, "web", _WEB), (self.client, "client", "/usr/local/bin/ask")):
            node.write(f"/etc/systemd/system/{name}.service", _UNIT.format(name=name, command=command))
            node.check(f"systemctl daemon-reload && systemctl enable --quiet --now {name}")

    def stop(self) -> None:
        for node, name in ((self.client, "client"), (self.web, "web")):
            node.check(f"systemctl disable --quiet --now {name}; rm /etc/systemd/system/{name}.service")
            node.check("systemctl daemon-reload")

    def flows(self) -> bool:
        """Whether the client gets a new answer within ten seconds."""
        return self.client.run(self._asked).status == 0

    def wait(self) -> None:
        """Until it flows, by itself."""
        self.client.wait_for(self._asked)

    @property
    def _asked(self) -> str:
        waiting = "for i in $(seq 50); do test -e /run/answered && break; sleep 0.2; done"
        return f"rm -f /run/answered; {waiting}; test -e /run/answered && grep -c '{self.secret}' /run/answer | grep -q 2"


def addresses(box: Box) -> dict[str, str]:
    """The IPv4 address of each workload."""
    workloads = json.loads(box.check("interceptor workloads -o json"))
    return {each["name"]: next(one for one in each["addresses"] if ":" not in one) for each in workloads}
