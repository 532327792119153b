# Bakeoff in a container: `docker build -t bakeoff .`, then
#   docker run --rm bakeoff doctor
#   docker run --rm -v night:/data bakeoff run airbench_mini --run /data/runs/first --trials 16
#   docker run --rm -v night:/data -e PREFECT_API_URL=http://SERVER:4200/api bakeoff worker --pool trials
# The flags that the strong sandbox needs are in evaluators/README.md, section Containers; without them a run has level medium.
# For GPUs: --build-arg BASE=nvidia/cuda:13.0.2-runtime-ubuntu24.04 --build-arg TORCH=torch, and `docker run --gpus all`.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

# what a package manager's configuration or a pip option may add, such as --index-url of a CPU build of torch
ARG PIP_OPTIONS=""
ARG TORCH="torch==2.13.0"
ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv git ca-certificates bubblewrap \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/bakeoff && /opt/bakeoff/bin/pip install ${PIP_OPTIONS} "${TORCH}" setuptools wheel

COPY . /src
RUN grep -vE '^(torch|nvidia-|triton)' /src/requirements.lock > /tmp/constraints.txt \
    && /opt/bakeoff/bin/pip install ${PIP_OPTIONS} -c /tmp/constraints.txt /src \
    && rm -rf /src /tmp/constraints.txt

RUN useradd --create-home --uid 1000 bakeoff && mkdir -p /data && chown bakeoff /data
USER bakeoff
WORKDIR /data
ENV PATH=/opt/bakeoff/bin:$PATH BAKEOFF_HOME=/data/home
ENTRYPOINT ["bakeoff"]
CMD ["--help"]
