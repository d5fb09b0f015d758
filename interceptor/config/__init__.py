"""config.yaml: text in, a frozen `Config` out, or a message with file and line. **Pure.**"""

from interceptor.config.default_text import default_config_text
from interceptor.config.model import (
    BridgeConfig,
    CertificatesConfig,
    Config,
    KubernetesConfig,
    LimitsConfig,
    PathsConfig,
    PolicyConfig,
    RecordsConfig,
)
from interceptor.config.parse import parse_config

__all__ = [
    "BridgeConfig",
    "CertificatesConfig",
    "Config",
    "KubernetesConfig",
    "LimitsConfig",
    "PathsConfig",
    "PolicyConfig",
    "RecordsConfig",
    "default_config_text",
    "parse_config",
]
