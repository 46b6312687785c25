"""The text of one run's nginx configuration. Pure: what a sandbox can reach is decided here and nowhere else."""

import re
from pathlib import Path
from urllib.parse import urlsplit

MAX_BODY_MIB = 16
ROUTES = (
    ("POST", "/api/inference"),
    ("POST", "/api/embedding"),
    ("POST", "/agents/inference"),
    ("POST", "/agents/embedding"),
    ("GET", "/api/usage"),
    ("GET", "/api/inference-models"),
    ("GET", "/api/embedding-models"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/embeddings"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
)
"""Everything a sandbox may ask for. Matched against the raw request line: nothing is decoded or normalised first."""

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._~@:+-]|%(?:2[Ff]|3[Aa]|40))*"
"""A part of a model's name; of all escapes only those that clients write for ``/``, ``:`` and ``@``."""
_NAMES = rf"{_NAME}(?:\/{_NAME})*"

_REFUSALS = {
    400: "The sandbox proxy could not read this request.",
    404: "The sandbox proxy does not serve this path. It serves: " + ", ".join(f"{m} {p}" for m, p in ROUTES) + ".",
    405: "The sandbox proxy does not serve this path with this method.",
    408: "The request took too long to arrive at the sandbox proxy.",
    413: f"The request body is larger than {MAX_BODY_MIB} MiB.",
    414: "The request line is too long.",
    429: "Too many connections of this sandbox at once.",
    500: "The sandbox proxy failed.",
    502: "The gateway does not answer. Try again in a moment.",
    503: "The gateway is not available. Try again in a moment.",
    504: "The gateway did not answer in time.",
}
_SAME_AS = {431: 400, 494: 400, 495: 400, 496: 400, 497: 400, 501: 405, 505: 400}
_FORWARDED_HEADERS = {
    "Content-Type": "$content_type",
    "Accept": "$http_accept",
    "User-Agent": "$http_user_agent",
    "Idempotency-Key": "$http_idempotency_key",
}
"""The only headers of the client that reach the gateway: none of them says who is calling."""


class GatewayUrlError(ValueError):
    """The gateway URL is not one nginx can forward to."""


def upstream(gateway_url: str) -> str:
    """The gateway as an nginx ``server`` address.

    Raises:
        GatewayUrlError: neither ``http://host[:port]`` nor ``unix:///path/to/socket``.
    """
    parts = urlsplit(gateway_url)
    if parts.scheme == "unix" and not parts.netloc and _plain(parts.path):
        return f"unix:{parts.path}"
    if parts.scheme == "http" and parts.hostname and parts.path in ("", "/") and _plain(parts.netloc):
        return f"{parts.netloc if parts.port else parts.netloc + ':80'}"
    raise GatewayUrlError(f"{gateway_url!r} is no gateway URL; write http://127.0.0.1:8101 or unix:///run/gateway.sock")


def _plain(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9._/:\[\]-]+", text) is not None


def nginx_config(*, socket: Path, scratch: Path, gateway: str, token: str, max_connections: int) -> str:
    """The configuration of the nginx that serves one run.

    Args:
        socket: where it listens.
        scratch: its private directory for request bodies, never visible to the sandbox.
        gateway: address made by ``upstream``.
        token: the run token that it adds to every request.
        max_connections: requests of the sandbox in flight at once; more get 429.
    """
    return f"""\
daemon off;
master_process off;
pid "{scratch}/nginx.pid";
error_log /dev/null emerg;
events {{ worker_connections {2 * max_connections + 32}; }}
http {{
    access_log off;
    server_tokens off;
    default_type application/json;
    client_body_temp_path "{scratch}/bodies";
    proxy_temp_path "{scratch}/replies";
    limit_conn_zone $server_name zone=run:64k;
    upstream gateway {{ server {gateway} max_fails=0; keepalive 0; }}
    map $request $refusal {{
        default 404;
{_route_map()}
    }}
    server {{
        listen "unix:{socket}";
        server_name sandbox;
        limit_conn run {max_connections};
        limit_conn_status 429;
        client_max_body_size {MAX_BODY_MIB}m;
        client_body_buffer_size 1m;
        client_header_timeout 30s;
        client_body_timeout 120s;
        send_timeout 600s;
        keepalive_timeout 75s;
        large_client_header_buffers 4 16k;
        merge_slashes off;
        absolute_redirect off;
        max_ranges 0;
{_error_pages()}
        location / {{
            if ($http_upgrade) {{ return 400; }}
            if ($refusal = 405) {{ return 405; }}
            if ($refusal) {{ return 404; }}
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_pass_request_headers off;
            proxy_set_header Host gateway;
            proxy_set_header Connection close;
            proxy_set_header Authorization "Bearer {token}";
{_forwarded_headers()}
            proxy_buffering off;
            proxy_max_temp_file_size 0;
            proxy_next_upstream off;
            proxy_intercept_errors off;
            proxy_redirect off;
            proxy_hide_header Server;
            proxy_connect_timeout 10s;
            proxy_send_timeout 120s;
            proxy_read_timeout 3600s;
        }}
    }}
}}
"""


def _route_map() -> str:
    lines = []
    for method, path in ROUTES:
        pattern = re.escape(path).replace("/", "\\/").replace(re.escape("{name}"), _NAMES)
        lines.append(f'        "~^{method} {pattern}(\\?[!-~]*)? HTTP\\/1\\.[01]$" 0;')
        lines.append(f'        "~^[A-Z]+ {pattern}(\\?[!-~]*)? HTTP\\/1\\.[01]$" 405;')
    return "\n".join(lines)


def _forwarded_headers() -> str:
    return "\n".join(f"            proxy_set_header {name} {value};" for name, value in _FORWARDED_HEADERS.items())


def _error_pages() -> str:
    lines = []
    for status, detail in _REFUSALS.items():
        codes = " ".join(str(code) for code in (status, *(c for c, same in _SAME_AS.items() if same == status)))
        lines.append(f"        error_page {codes} /refused/{status};")
        body = f'{{"detail": "{detail}"}}'
        lines.append(f"        location = /refused/{status} {{ internal; return {status} '{body}'; }}")
    return "\n".join(lines)
