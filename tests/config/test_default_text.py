"""The file that we offer says what would be so without it, and mentions everything that can be set."""

import re

import yaml

from interceptor.config import Config, default_config_text, parse_config


def test_default_text_is_the_default_config() -> None:
    assert parse_config(default_config_text(), "config.yaml", node="host-1") == Config(node="host-1")


def test_default_text_with_every_key_uncommented_is_valid_and_has_every_key() -> None:
    uncommented = re.sub(r"^( *)#(\w+: )", r"\1\2", default_config_text(), flags=re.MULTILINE)
    config = parse_config(uncommented, "config.yaml", node="host-1")
    shown, offered = yaml.safe_load(config.to_yaml()), yaml.safe_load(uncommented)
    assert shown == offered


def test_default_text_lines_fit_a_terminal() -> None:
    assert max(map(len, default_config_text().splitlines())) <= 120
