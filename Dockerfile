# docker build -t ops-worker:0.1.0 .                             what the passes need
# docker build -t ops-worker:0.1.0 --build-arg EXTRAS=sidecar .  and what the sidecar's /metrics needs
# docker build -t ops-worker:0.1.0 --build-arg EXTRAS=re2 .      and what `matches` in a catalogue needs
# docker build -t ops-worker:0.1.0 --build-arg EXTRAS=cluster .  and the Kubernetes client; several: EXTRAS=cluster,sidecar
# docs/image.md describes names for buildah, kind and containerd, and how a build is repeated.
ARG PYTHON_VERSION=3.13
# A tag can be moved. The release workflow adds the digest that the tag has then: ...-slim@sha256:...
ARG BASE=docker.io/library/python:${PYTHON_VERSION}-slim
FROM ${BASE} AS build
ARG EXTRAS=""
WORKDIR /src
COPY .requirements .requirements
# Only the versions and files of the lock files (`make lock`), and no code of a package is run.
RUN app=/app \
 && for name in base $(echo "$EXTRAS" | tr ',' ' '); do set -- "$@" --requirement ".requirements/$name.lock"; done \
 && python -m pip install --quiet --no-cache-dir --no-compile --disable-pip-version-check --root-user-action=ignore \
        --require-hashes --only-binary :all: --target "$app" "$@" \
 # programs of the packages, and the Kubernetes client once more, for asyncio: nothing uses them
 && rm -rf "$app/bin" "$app/kubernetes/aio" \
 && find "$app" -type d \( -name tests -o -name test -o -name __pycache__ \) -prune -exec rm -rf {} +
COPY ops_worker ops_worker
# Bytecode is compiled once, here: under a read-only root every process would compile what it imports again.
# With one process (-j 1), because with several, equal sources may give bytecode that differs.
RUN app=/app \
 && cp -r ops_worker "$app" \
 && chmod -R u=rwX,go=rX "$app" \
 && python -m compileall -q -j 1 --invalidation-mode unchecked-hash -s "$app" -p /app "$app"

FROM ${BASE}
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ops-worker" \
      org.opencontainers.image.description="Health and metrics passes for an IoT platform, run by CronJobs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
# The official base images come without the standard library's bytecode; under a read-only root each process would compile it again.
RUN python -m compileall -q -j 1 --invalidation-mode unchecked-hash -x '/(test|tests|idlelib|lib2to3|tkinter|turtledemo|ensurepip|site-packages|dist-packages)/' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && printf '#!%s -P\nfrom ops_worker.__main__ import run\nrun()\n' "$(command -v python)" > /usr/local/bin/ops-worker \
 && chmod 755 /usr/local/bin/ops-worker
COPY --from=build /app /app
ENV PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["ops-worker"]
