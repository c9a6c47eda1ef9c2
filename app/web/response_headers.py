"""Headers for browsers. HSTS is for the proxy that ends TLS, and no page elsewhere may read an answer: no CORS."""

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
"""On every answer; as bytes, since joining them is then all that they cost."""


def page_policy(*, styles: str) -> str:
    """The Content-Security-Policy of a page of ours: nothing but the styles of this source, no scripts, no frames."""
    return f"default-src 'none'; style-src {styles}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
