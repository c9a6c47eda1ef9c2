"""For ASGI servers other than `priohook serve`: `app`, from the settings. The only module with an effect on import."""

from app.application import create_app
from app.auth.first_start import complete
from app.auth.keys import make_first_key
from app.settings.model import Settings
from app.telemetry.logs import stderr_writer

_configured = Settings.load()
make_first_key(_configured)
app = create_app(complete(_configured), log=stderr_writer(_configured.log_format))
