# docker build -t ops-worker:0.1.0 .                             what the passes need
# docker build -t ops-worker:0.1.0 --build-arg EXTRAS=sidecar .  and what the sidecar's /metrics needs
# docker build -t ops-worker:0.1.0 --build-arg EXTRAS=re2 .      and what `matches` in a catalogue needs
# docker build -t ops-worker:0.1.0 --build-arg EXTRAS=cluster .  and the Kubernetes client; several: EXTRAS=cluster,sidecar
ARG PYTHON_VERSION=3.11
FROM docker.io/library/python:${PYTHON_VERSION}-slim AS build
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml README.md ./
COPY ops_worker ops_worker
RUN python -m pip install --no-cache-dir --no-compile --disable-pip-version-check --root-user-action=ignore --target /app ".${EXTRAS:+[$EXTRAS]}" \
 # the Kubernetes client once more, for asyncio: half of it, and nothing outside imports it
 && rm -rf /app/kubernetes/aio \
 && find /app -type d \( -name tests -o -name test -o -name __pycache__ \) -prune -exec rm -rf {} + \
 # once, here: under a read-only root every process would compile what it imports again
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /app -p /app /app

FROM docker.io/library/python:${PYTHON_VERSION}-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ops-worker" \
      org.opencontainers.image.description="Health and metrics passes for an IoT platform, run by CronJobs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The official base images come without the standard library's bytecode; under a read-only root each process would compile it again.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/(test|tests|idlelib|lib2to3|tkinter|turtledemo|ensurepip|site-packages|dist-packages)/' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && printf '#!%s -P\nfrom ops_worker.__main__ import run\nrun()\n' "$(command -v python)" > /usr/local/bin/ops-worker \
 && chmod 755 /usr/local/bin/ops-worker
COPY --from=build /app /app
ENV PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["ops-worker"]
