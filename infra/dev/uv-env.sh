# Sourced by the scripts that call uv. Where only pip was told about an index or a certificate, uv is told the same.
# shellcheck shell=sh

pip_says() { python3 -I -m pip config get "$1" 2>/dev/null || true; }

export UV_PYTHON_DOWNLOADS=never

if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
    UV_DEFAULT_INDEX=${PIP_INDEX_URL:-$(pip_says global.index-url)}
    if [ -n "$UV_DEFAULT_INDEX" ]; then export UV_DEFAULT_INDEX; else unset UV_DEFAULT_INDEX; fi
fi

if [ -z "${SSL_CERT_FILE:-}" ]; then
    SSL_CERT_FILE=${PIP_CERT:-$(pip_says global.cert)}
    if [ -n "$SSL_CERT_FILE" ]; then
        export SSL_CERT_FILE
    else
        unset SSL_CERT_FILE
        # uv brings its own certificates; this machine's may hold a proxy's as well.
        if [ -s /etc/ssl/certs/ca-certificates.crt ]; then export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"; fi
    fi
fi
