# Triton Inference Server with Marsam's step engine as a model.
# Context: the repository's root. docs/images.md tells the rest.
# Its Python must be 3.11 or newer.
ARG BASE=nvcr.io/nvidia/tritonserver:25.10-py3

FROM ${BASE} AS build
WORKDIR /build
RUN python3 -m venv /pip && python3 -m venv --without-pip /venv \
 && /pip/bin/python -m pip install --no-cache-dir pip==26.3
COPY pyproject.toml constraints.txt ./
# Empty: the registry's build, which brings CUDA along.
ARG TORCH_INDEX=
RUN /pip/bin/pip --python /venv/bin/python install --no-cache-dir --retries 1 -c constraints.txt \
      ${TORCH_INDEX:+--no-deps --extra-index-url "$TORCH_INDEX"} torch \
 && rm -rf /venv/lib/python3*/site-packages/torch/test /venv/lib/python3*/site-packages/torch/include
COPY README.md LICENSE ./
COPY src src
COPY services services
RUN /pip/bin/pip --python /venv/bin/python install --no-cache-dir -c constraints.txt '.[generator]' \
 && ln -s /venv/lib/python3*/site-packages /venv/site

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="marsam/triton" \
      org.opencontainers.image.description="Triton Inference Server with Marsam's step engine." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A volume that is mounted at /cache for the first time takes its owner from here.
RUN echo 'marsam:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'marsam:x:10001:' >> /etc/group \
 && install -d -o 10001 -g 10001 /cache
COPY --from=build /venv /venv
COPY --from=build /build/services/generator/model_repository /models
# The backend's interpreter ignores PYTHONPATH; our model reads this instead.
ENV MARSAM_SITE=/venv/site HOME=/tmp PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 8001 8002 8080
ENTRYPOINT ["tritonserver", "--model-repository=/models"]
