FROM python:3.13-slim AS build
WORKDIR /opt/priohook
RUN python -m venv --without-pip .venv
# Before the source, so that a change there installs nothing again. All are wheels: no compiler is needed.
COPY requirements.txt requirements-brokers.txt requirements-otel.txt ./
RUN pip --python .venv install --no-cache-dir --require-hashes --only-binary :all: -r requirements.txt
# Extras, such as "brokers otel": docker build --build-arg EXTRAS="…" .
ARG EXTRAS=""
RUN for extra in $EXTRAS; do \
        pip --python .venv install --no-cache-dir --require-hashes --only-binary :all: -r requirements-$extra.txt || exit 1; \
    done
COPY . source
RUN pip --python .venv install --no-cache-dir --no-build-isolation --no-deps ./source

FROM python:3.13-slim
LABEL org.opencontainers.image.title="priohook" \
      org.opencontainers.image.description="The webhook receiver between Prioticket and your own systems." \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/priohook/.venv/bin:$PATH
COPY --from=build /opt/priohook/.venv /opt/priohook/.venv
# SQLite's file goes to the working directory; a volume there inherits its owner.
RUN install -d -o 10001 -g 10001 /data
WORKDIR /data
# The base image's own modules come uncompiled, and the user below could not keep what each start compiles.
RUN priohook serve --help >/dev/null && python -c "import urllib.request"
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --start-interval=1s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["priohook"]
CMD ["serve", "--host", "0.0.0.0"]
