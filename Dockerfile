# The container image of pcqa: VARIANT=cpu (the default) or VARIANT=cuda. The programs are the same in both.
#
#   docker build -t pcqa:cpu .
#   docker build -t pcqa:cuda --build-arg VARIANT=cuda .
#
# What decides the result: these sources with their lock files, the two base images, and the state of Debian's archive,
# which APT_SNAPSHOT (20260101T000000Z, say) holds still. SOURCE_DATE_EPOCH is the time of the bill of materials, and,
# where the builder is told so as well, of every file.
ARG RUST_IMAGE=docker.io/library/rust:1.95-bookworm
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim

# What compiles, and what it is linked to. The same script serves a developer's machine.
FROM ${RUST_IMAGE} AS toolchain
ARG APT_SNAPSHOT=
ENV PCQA_CACHE=/opt/pcqa
WORKDIR /src
COPY deploy/image/apt-snapshot.sh deploy/image/
RUN deploy/image/apt-snapshot.sh "$APT_SNAPSHOT"
COPY Cargo.toml ./
COPY deploy/setup deploy/setup
RUN deploy/setup/setup.sh build

# Every dependency, compiled for empty programs, so that a change of ours does not compile them again.
FROM toolchain AS build
ENV CARGO_TARGET_DIR=/target
COPY Cargo.lock ./
COPY .cargo .cargo
COPY deploy/image/stubs.sh deploy/image/
RUN deploy/image/stubs.sh && cargo build --release --locked --bins && rm -r src benches build.rs
COPY build.rs ./
COPY proto proto
COPY benches benches
COPY src src
# The files are older than what was built from the empty programs; cargo goes by time.
RUN find build.rs proto benches src -type f -exec touch {} + \
    && cargo build --release --locked --bins \
    && install -D -t /out/bin /target/release/pcqa /target/release/pcqa-server /target/release/pcqa-decoder \
        /target/release/pcqa-train

# libtorch's libraries, all in one directory.
FROM toolchain AS libtorch
ARG VARIANT=cpu
COPY deploy/image/libtorch.sh deploy/image/
RUN deploy/image/libtorch.sh "$VARIANT" /out

# What the programs need of Debian, in a root directory of its own.
FROM ${BASE_IMAGE} AS rootfs
WORKDIR /src
ARG APT_SNAPSHOT=
COPY deploy/image/apt-snapshot.sh deploy/image/
RUN deploy/image/apt-snapshot.sh "$APT_SNAPSHOT"
# Versions are the archive's of APT_SNAPSHOT; its lists are read by the next step, and no layer of this is in the image.
# hadolint ignore=DL3008,DL3009
RUN apt-get update && apt-get upgrade -y && apt-get install -y --no-install-recommends \
        ca-certificates libavcodec59 libavformat59 libavutil57 libstdc++6 libswscale6
COPY deploy/image/rootfs.sh deploy/image/
RUN --mount=type=bind,from=build,source=/out/bin,target=/rootfs/usr/local/bin \
    --mount=type=bind,from=libtorch,source=/out/lib,target=/rootfs/usr/local/lib \
    deploy/image/rootfs.sh /rootfs /packages.tsv

# The bill of materials, and the licences with their texts.
FROM build AS bill
ARG VARIANT=cpu
ARG SOURCE_DATE_EPOCH=0
COPY --from=rootfs /packages.tsv /bill/
COPY --from=libtorch /out/wheels.lock /bill/
COPY --from=libtorch /out/licences /bill/wheels
COPY LICENSE ./
COPY deploy/image deploy/image
# cargo describes all dependencies or none: those of tests alone, which the build did not need, have to be there too.
RUN cargo fetch --locked --target x86_64-unknown-linux-gnu \
    && python3 deploy/image/bill.py --variant "$VARIANT" --packages /bill/packages.tsv --wheels /bill/wheels.lock \
        --wheel-licences /bill/wheels --bin /out/bin --out /out/doc

FROM scratch
ARG VARIANT=cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
# From what changes seldom to what changes with every build.
COPY --from=rootfs /rootfs /
COPY --from=libtorch /out/lib /usr/local/lib
COPY --from=bill /out/doc /usr/share/doc/pcqa
COPY --from=build /out/bin /usr/local/bin
LABEL org.opencontainers.image.title="pcqa" \
      org.opencontainers.image.description="Quality scores for AI-generated images and videos, over gRPC" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.ref.name="pcqa:$VERSION-$VARIANT"
# On every address; the server refuses that unless it is told who may call. A GPU is only there when it is asked for.
ENV PATH=/usr/local/bin \
    PCQA_LISTEN=0.0.0.0:50051 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
EXPOSE 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["/usr/local/bin/pcqa", "--connect-timeout", "4", "health"]
ENTRYPOINT ["/usr/local/bin/pcqa-server"]
