"""For ASGI servers other than `priohook serve`: `app`, from the settings. The only module with an effect on import."""

from app.application import create_app
from app.auth.clients import clients_from
from app.auth.first_clients import with_kept_clients
from app.auth.keys import token_keys
from app.settings.model import Settings
from app.telemetry.logs import stderr_writer

_settings = with_kept_clients(Settings.load())
app = create_app(
    _settings,
    clients=clients_from(_settings.clients),
    keys=token_keys(_settings),
    log=stderr_writer(_settings.log_format),
)
