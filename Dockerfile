# Two images: `pgbackup` (engine, Airflow, PostgreSQL's programs, the scripts) and `local` (adds what stands in for the
# world: storage, mailbox, broker). `make images` downloads what is copied here, pinned, and builds both. Nothing of
# BuildKit is used: any engine builds it.
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS system
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Debian's point releases replace their packages: a pinned version would stop to build, the base is what is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      ca-certificates gnupg libgssapi-krb5-2 libreadline8 libssl3 libxml2 openssl python3 tzdata zstd \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
# 999 is the account of the PostgreSQL and Redis images, too: a secret file has one owner, wherever it is read.
RUN groupadd --gid 999 pgbackup \
 && useradd --uid 999 --gid 999 --no-create-home --home-dir /opt/airflow --shell /usr/sbin/nologin pgbackup \
 && install -d -o 999 -g 999 -m 0700 /backups /mailbox /var/lib/postgresql /var/lib/redis /var/lib/storage \
 && install -d -o 999 -g 999 -m 0750 /var/log/backups /var/log/airflow

FROM system AS programs
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
COPY .cache/wheels /wheels
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --no-index --find-links /wheels --no-deps --requirement /wheels/pgbackup.txt \
 && /opt/venv/bin/python -m compileall -q /opt/venv/lib \
 && python3 -m venv /opt/local \
 && /opt/local/bin/pip install --no-cache-dir --no-index --find-links /wheels --no-deps --requirement /wheels/stand-ins.txt

FROM system AS pgbackup
COPY .cache/postgresql/18 /usr/lib/postgresql/18
COPY --from=programs /opt/venv /opt/venv
COPY include/scripts /scripts
COPY include /opt/airflow/include
COPY docs/runbook.md /opt/airflow/docs/runbook.md
COPY plugins /opt/airflow/plugins
COPY dags /opt/airflow/dags
COPY include/compose/healthy.py /usr/local/bin/healthy
COPY include/compose/pgbackup.sh /usr/local/bin/pgbackup
RUN /opt/venv/bin/python -m compileall -q /opt/airflow/plugins
ENV PATH=/opt/venv/bin:/usr/lib/postgresql/18/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    AIRFLOW_HOME=/opt/airflow \
    PGBACKUP_CONFIG=/etc/pgbackup/protocol.yaml \
    PYTHONPATH=/opt/airflow/plugins \
    PYTHONUNBUFFERED=1
WORKDIR /opt/airflow
USER 999:999
CMD ["pgbackup", "--help"]

FROM pgbackup AS local
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends redis-server \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && install -d -o 999 -g 999 -m 0700 /data
COPY --from=programs /opt/local /opt/local
USER 999:999
CMD ["/opt/local/bin/weed", "version"]
