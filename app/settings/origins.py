"""Where each value comes from, and what was set for nothing."""

from collections.abc import Mapping

from app.settings.model import Settings
from app.settings.sources import CONFIG_VARIABLE, ENV_PREFIX, sources


def value_sources() -> dict[str, str]:
    """Where each setting's value comes from: `environment`, `secret file`, the TOML file's path or `default`."""
    found = dict.fromkeys(Settings.model_fields, "default")
    for name, source in reversed(sources(Settings).items()):
        found |= dict.fromkeys(source(), name)
    return found


def client_sources() -> dict[str, str]:
    """Where each configured client comes from; if there are several sources, the strongest is first."""
    found: dict[str, str] = {}
    for name, source in sources(Settings).items():
        for client in source().get("clients", {}):
            found[client] = f"{found[client]}, {name}" if client in found else name
    return found


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """The `PRIOHOOK_` variables that no setting reads: likely misspelt, so worth a warning.

    Only a warning, since Kubernetes gives every pod variables such as `PRIOHOOK_SERVICE_HOST` once a service is called
    priohook.
    """
    known = {CONFIG_VARIABLE, *(ENV_PREFIX + name.upper() for name in Settings.model_fields)}
    ours = (name for name in environ if name.upper().startswith(ENV_PREFIX))
    return sorted(name for name in ours if name.upper().split("__")[0] not in known)
