"""The consumer of docker-compose.yml: prints a line for each event that it gets, and answers 204."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHOWN = ("Priohook-Event-Type", "Priohook-Reference", "Priohook-Attempt", "webhook-id")


class Consumer(BaseHTTPRequestHandler):
    """Answers POST, on connections that are kept."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Takes an event."""
        self.rfile.read(int(self.headers["Content-Length"]))
        line = " ".join(self.headers.get(name, "-") for name in SHOWN)
        print(f"{line}\n", end="", flush=True)  # noqa: T201 - in one piece, since others print at the same time
        self.send_response(204)
        self.end_headers()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Logs nothing beside the line above."""


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 8080), Consumer).serve_forever()  # noqa: S104 - its network is compose's
