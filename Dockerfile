# The xDS server alone: no Envoy, no runtime, nothing of the demo's libraries.
#   docker build -t xds-server .
#   docker run --rm -p 18000:18000 -v "$PWD/conf:/etc/xds-server:ro" -v "$PWD/tls:/tls:ro" xds-server \
#     serve --config /etc/xds-server --xds 0.0.0.0:18000 --tls-cert /tls/tls.crt --tls-key /tls/tls.key

FROM python:3.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1 UV_LINK_MODE=copy
RUN pip install uv==0.13.9 && python -m venv /opt/xds-server
WORKDIR /src
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY xds_server ./xds_server
# The lock file holds the demo and the tests too: as a constraint it fixes the versions and adds nothing.
RUN uv pip install --python /opt/xds-server/bin/python --constraint requirements.lock . \
    && /opt/xds-server/bin/python -m compileall -q /opt/xds-server/lib

FROM python:3.13-slim-bookworm
COPY --from=build /opt/xds-server /opt/xds-server
ENV PATH=/opt/xds-server/bin:$PATH PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 18000 19000
HEALTHCHECK --interval=2s --timeout=2s --start-period=10s --retries=5 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:19000/readyz', timeout=2)"]
ENTRYPOINT ["xds-server"]
# The admin port stays on the container's loopback: whoever reaches it may move models. This command alone is refused:
# the xDS port is reached from outside, so give it certificates as above, or --insecure-plaintext on a network of its own.
CMD ["serve", "--config", "/etc/xds-server", "--xds", "0.0.0.0:18000", "--admin", "127.0.0.1:19000"]
