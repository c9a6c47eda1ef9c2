"""Headers for browsers. The proxy that ends TLS sends HSTS. No CORS: pages of other sites may not read answers."""

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
"""Sent with every answer; bytes already, so that they cost next to nothing."""


def page_policy(*, styles: str) -> str:
    """The Content-Security-Policy of our pages: only styles from this source, no scripts, no frames."""
    return f"default-src 'none'; style-src {styles}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
