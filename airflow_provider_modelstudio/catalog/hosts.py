"""Which API host belongs to which region? Keys, hosts and regions of Model Studio go together. Pure.

Source: https://help.aliyun.com/zh/model-studio/base-url.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from airflow_provider_modelstudio.inference.errors import ConfigurationError

__all__ = ["SHARED_HOSTS", "choose_host", "region_of"]

SHARED_HOSTS = {
    "cn-beijing": "https://dashscope.aliyuncs.com",
    "ap-southeast-1": "https://dashscope-intl.aliyuncs.com",
    "us-east-1": "https://dashscope-us.aliyuncs.com",
    "cn-hongkong": "https://cn-hongkong.dashscope.aliyuncs.com",
}
"""Hosts that take any key of their region. Other regions have hosts of a workspace only."""

_REGIONS = {urlsplit(url).hostname: region for region, url in SHARED_HOSTS.items()}
_OF_WORKSPACE = re.compile(r"[\w-]+\.([a-z0-9-]+)\.maas\.aliyuncs\.com")
_HTTPS_PORT = ":443"


def region_of(host: str) -> str | None:
    """The region of an API host; ``None`` for a host that is not one of Model Studio's own."""
    name = urlsplit(host if "://" in host else f"https://{host}").hostname or ""
    found = _OF_WORKSPACE.fullmatch(name)
    return found[1] if found else _REGIONS.get(name)


def choose_host(api_host: str | None, region: str | None, *, automatic: bool) -> str:
    """The API host for a new endpoint, without a port that goes without saying.

    ``automatic``: with neither host nor region the key is taken for one of the Chinese mainland.
    Raises :class:`~..inference.errors.ConfigurationError` when host and region contradict each other, or tell too little.
    """
    if api_host is None:
        if region is None and not automatic:
            raise ConfigurationError(
                "extra api_host of the connection is empty: mode 'manual' needs the API host of the key's region"
            )
        shared = SHARED_HOSTS.get(_zone(region or "cn-beijing"))
        if shared is None:
            raise ConfigurationError(
                f"region {region!r} has no host that all workspaces share: "
                "set extra api_host of the connection to the host of your workspace"
            )
        return shared
    belongs = region_of(api_host)
    if region is not None and belongs is not None and _zone(region) != _zone(belongs):
        raise ConfigurationError(
            f"extra region of the connection is {region!r}, but its api_host {urlsplit(api_host).hostname} belongs to "
            f"{belongs!r}: keys and hosts work in one region only, set both to the region of the key"
        )
    return api_host.removesuffix(_HTTPS_PORT) if api_host.startswith("https://") else api_host


def _zone(region: str) -> str:
    """The region whose hosts and keys a region uses: the Chinese mainland is one."""
    return "cn-beijing" if region.startswith("cn-") and region != "cn-hongkong" else region
