# One target for each service. Every stage builds on what rarely changes: dependencies, then `common`, then one service; so
# a change of a service compiles that service, one of `common` all of them, and neither compiles a dependency again.
# For the classic builder, too: no cache mounts, no heredocs.

ARG BUILDER_IMAGE=rust:1.95-slim-trixie
# Of it only the C library goes into the images, so it must not be older than the builder's.
ARG RUNTIME_IMAGE=debian:trixie-slim

# ---- what all images stand on: a C library, the certificates of the authorities, a user; no shell (docs/adr/0019-images.md)

FROM ${RUNTIME_IMAGE} AS runtime
WORKDIR /rootfs
# Scanners read in status.d which packages an image has.
RUN set -e; \
    mkdir -p etc usr/lib usr/lib64 var/lib/dpkg/status.d; \
    ln -s usr/lib usr/lib64 .; \
    for package in libc6 libgcc-s1; do \
        for file in $(dpkg -L "$package" | grep -E '/lib(64)?/.*\.so(\.[0-9]+)*$' | grep -v /gconv/); do \
            mkdir -p "./usr$(dirname "${file#/usr}")"; \
            cp -a "$file" "./usr${file#/usr}"; \
        done; \
        dpkg -s "$package" > "var/lib/dpkg/status.d/$package"; \
    done; \
    echo 'hosts: files dns' > etc/nsswitch.conf; \
    echo 'nonroot:x:65532:65532:nonroot:/:/sbin/nologin' > etc/passwd; \
    echo 'nonroot:x:65532:' > etc/group; \
    mkdir /folder; \
    chown 65532:65532 /folder

# ---- the builder

FROM ${BUILDER_IMAGE} AS chef
RUN cmake --version && c++ --version && make --version \
    || { apt-get update && apt-get install -y --no-install-recommends cmake g++ make && rm -rf /var/lib/apt/lists/*; }
RUN cargo install cargo-chef --version 0.1.78 --locked && rm -rf "${CARGO_HOME:-$HOME/.cargo}/registry"
WORKDIR /vedetta
# The same choice in each step: another would give the dependencies other features, and compile them again. zlib is linked in,
# also where the builder has one.
ENV CARGO_INCREMENTAL=0 \
    LIBZ_SYS_STATIC=1 \
    PACKAGES="-p gateway -p user_manager -p data_collector -p alert_system -p notifier_system -p opensky_replay --features kafka"

FROM chef AS planner
COPY . .
RUN cargo chef prepare && mkdir /manifests && cp --parents Cargo.toml Cargo.lock */Cargo.toml /manifests

FROM chef AS dependencies
COPY --from=planner /vedetta/recipe.json .
RUN cargo chef cook --release --locked $PACKAGES \
    --bin gateway --bin user_manager --bin data_collector --bin alert_system --bin notifier_system --bin opensky_replay
COPY --from=planner /manifests .

# Through a service that is still empty here: built as what a program depends on, `common` is what the services need.
FROM dependencies AS common
COPY common common
RUN cargo build --release --locked $PACKAGES --bin alert_system && cargo clean --release -p alert_system

FROM scratch AS base
COPY --from=runtime /rootfs /
COPY --from=chef /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
LABEL org.opencontainers.image.version=0.1.0 \
      org.opencontainers.image.licenses=MIT \
      org.opencontainers.image.vendor=Vedetta
USER 65532:65532

# ---- the services

FROM common AS build_gateway
COPY gateway gateway
RUN cargo build --release --locked $PACKAGES --bin gateway

FROM base AS gateway
COPY --from=runtime --chown=65532:65532 /folder /certs
COPY --from=build_gateway /vedetta/target/release/gateway /
LABEL org.opencontainers.image.title=gateway \
      org.opencontainers.image.description="Vedetta's front door: TLS, routing, tokens"
EXPOSE 8443 9900
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["/gateway", "healthcheck"]
ENTRYPOINT ["/gateway"]

FROM common AS build_user_manager
COPY user_manager user_manager
COPY docs/openapi docs/openapi
RUN cargo build --release --locked $PACKAGES --bin user_manager

FROM base AS user_manager
COPY --from=build_user_manager /vedetta/target/release/user_manager /
LABEL org.opencontainers.image.title=user_manager \
      org.opencontainers.image.description="Vedetta's accounts"
EXPOSE 5001 50051 9901
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["/user_manager", "healthcheck"]
ENTRYPOINT ["/user_manager"]

FROM common AS build_data_collector
COPY data_collector data_collector
COPY docs/openapi docs/openapi
RUN cargo build --release --locked $PACKAGES --bin data_collector

FROM base AS data_collector
COPY --from=build_data_collector /vedetta/target/release/data_collector /
LABEL org.opencontainers.image.title=data_collector \
      org.opencontainers.image.description="Vedetta's flights"
EXPOSE 5002 9902
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["/data_collector", "healthcheck"]
ENTRYPOINT ["/data_collector"]

FROM common AS build_alert_system
COPY alert_system alert_system
RUN cargo build --release --locked $PACKAGES --bin alert_system

FROM base AS alert_system
COPY --from=build_alert_system /vedetta/target/release/alert_system /
LABEL org.opencontainers.image.title=alert_system \
      org.opencontainers.image.description="Vedetta's rule"
EXPOSE 9903
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["/alert_system", "healthcheck"]
ENTRYPOINT ["/alert_system"]

FROM common AS build_notifier_system
COPY notifier_system notifier_system
RUN cargo build --release --locked $PACKAGES --bin notifier_system

FROM base AS notifier_system
COPY --from=runtime --chown=65532:65532 /folder /mail
COPY --from=build_notifier_system /vedetta/target/release/notifier_system /
LABEL org.opencontainers.image.title=notifier_system \
      org.opencontainers.image.description="Vedetta's mails"
EXPOSE 9904
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["/notifier_system", "healthcheck"]
ENTRYPOINT ["/notifier_system"]

FROM common AS build_opensky_replay
COPY opensky_replay opensky_replay
RUN cargo build --release --locked $PACKAGES --bin opensky_replay

FROM base AS opensky_replay
COPY --from=build_opensky_replay /vedetta/target/release/opensky_replay /
LABEL org.opencontainers.image.title=opensky_replay \
      org.opencontainers.image.description="OpenSky Network's API, answered from recorded flights"
EXPOSE 5010
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["/opensky_replay", "healthcheck"]
ENTRYPOINT ["/opensky_replay"]
