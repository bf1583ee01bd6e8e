# Marsam's run program; also the trainer whose runs are its own processes.
# Context: the repository's root. docs/images.md tells the rest.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
RUN python3 -m venv /pip && python3 -m venv --without-pip /venv \
 && /pip/bin/python -m pip install --no-cache-dir pip==26.3
COPY pyproject.toml constraints.txt ./
# PyTorch's own CPU builds. For CUDA: --build-arg TORCH_INDEX= (empty: the registry's build, which brings CUDA along).
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# A layer of its own: it is the largest, and changes least. Without its tests and C++ headers: nothing here compiles.
RUN /pip/bin/pip --python /venv/bin/python install --no-cache-dir --no-deps --retries 1 -c constraints.txt \
      ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch \
 && rm -rf /venv/lib/python3*/site-packages/torch/test /venv/lib/python3*/site-packages/torch/include
COPY README.md LICENSE ./
COPY src src
COPY services services
# An image for the processor cannot use kernels for GPUs.
RUN /pip/bin/pip --python /venv/bin/python install --no-cache-dir -c constraints.txt '.[trainer,torch]' \
 && case "$TORCH_INDEX" in */cpu) find /venv -name 'libbitsandbytes_*.so' ! -name '*_cpu.so' -delete ;; esac

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="marsam/run" \
      org.opencontainers.image.description="Marsam's run program; also the trainer whose runs are its own processes." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A volume that is mounted at /cache for the first time takes its owner from here.
RUN echo 'marsam:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'marsam:x:10001:' >> /etc/group \
 && install -d -o 10001 -g 10001 /cache
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# What NVIDIA's container runtime puts in beside the devices; it means nothing without one.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /tmp
EXPOSE 5000 8080 9090
ENTRYPOINT ["/venv/bin/python", "-m", "marsam_trainer.run"]
