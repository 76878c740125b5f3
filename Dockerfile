# syntax=docker/dockerfile:1

# Two images of the service, each with the program, the demo's prompts and nothing that can start a shell:
#
#   docker build --target cpu  -t babelward:0.1.0 .
#   docker build --target cuda -t babelward:0.1.0-cuda .
#
# Base images are pinned by version. We cannot reach their registries, so their digests are not known here: for a build that
# is the same every time, give them, as in --build-arg RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm@sha256:...
ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm
ARG PYTHON_IMAGE=docker.io/library/python:3.13.7-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS build
WORKDIR /src
# Without rust-toolchain.toml, which would fetch components that only developers need; the image is of the same version.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
COPY data data
# Small checkpoints with the logits that they must have: `doctor` tests devices with them.
COPY tests/golden/models tests/golden/models
# Members of the workspace, which cargo wants to see although they are not built.
COPY fuzz fuzz
COPY tests/candle tests/candle
COPY tests/candle_oracle tests/candle_oracle
COPY tests/sanitize tests/sanitize
# The processor's kernels are chosen when the program runs, so one build serves all x86-64 processors.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --profile ship --locked --bin babelward \
    && install -D -m 0755 target/ship/babelward /out/usr/local/bin/babelward \
    && install -D -m 0644 data/demo_prompts.jsonl /out/usr/share/babelward/demo_prompts.jsonl

# CUDA's compiler and cuBLASLt from pip: a third of what a CUDA runtime image has. The driver's own library comes from the
# host, by the NVIDIA container toolkit.
FROM ${PYTHON_IMAGE} AS cuda-libraries
COPY tests/gpu/cuda_home.py /src/
RUN python3 /src/cuda_home.py /out

FROM ${RUNTIME_IMAGE} AS runtime
COPY --from=build /out /
# Of the image's user `nonroot`, as a number, so that Kubernetes sees that it is not root.
USER 65532:65532
EXPOSE 50051/tcp 9464/tcp
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/babelward"]
CMD ["serve"]

FROM runtime AS cuda
COPY --from=cuda-libraries /out/nvidia/cu13 /usr/local/cuda
ENV CUDA_HOME=/usr/local/cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The last stage is what is built when no target is named.
FROM runtime AS cpu
