#   docker build -t odin \
#     --build-arg VERSION=$(git describe --tags --always --dirty) \
#     --build-arg REVISION=$(git rev-parse HEAD) .
#   docker run --rm -p 8080:8080 --memory 512m --ulimit nofile=262144 \
#     --read-only --tmpfs /tmp -v odin-data:/data odin
#
# docs/containers.md says what each of these is for. The base images are arguments so
# that a mirror, a pinned digest or another Go can be given; the first has to have Go, a
# shell with mkdir, chmod and cp, and CA certificates where Debian keeps them.
ARG BUILD_IMAGE=docker.io/library/golang:1.26.8-trixie
ARG RUN_IMAGE=scratch

# On the machine that builds, for the machine it is for: Go needs no emulation.
FROM --platform=${BUILDPLATFORM} ${BUILD_IMAGE} AS build
# Where modules come from; empty is Go's own default.
ARG GOPROXY
WORKDIR /src
# The modules come first: they change seldom, and the layer is kept.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=docker
# As `make build` does it, so that the same source is the same binary.
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" -o /out/odin ./cmd/odin \
 && mkdir -p /data /out/etc/ssl/certs /out/tmp && chmod 1777 /out/tmp \
 && cp LICENSE /out/ && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/

FROM ${RUN_IMAGE}
# The binary, its licence, CA certificates for TLS to others (--nats-url, --jwks, odin
# tail), and /tmp, which must be anybody's: a tmpfs mounted there takes this mode.
COPY --from=build /out/ /
# A volume made from this directory inherits its owner, so the user below can write to
# it. With --nats-url nothing is kept there.
COPY --from=build --chown=65532:65532 /data /data
ENV ODIN_DATA_DIR=/data
VOLUME /data
# Numeric, so that Kubernetes can see without a passwd file that it is not root.
USER 65532:65532
# 8080 is for clients. The admin port (8081) listens on loopback inside the
# container and is deliberately not exposed.
EXPOSE 8080
STOPSIGNAL SIGTERM
# The admin port answers without TLS whatever the public one speaks.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["/odin", "health", "--url", "http://127.0.0.1:8081"]
ENTRYPOINT ["/odin"]
CMD ["serve"]
# Last, because they change with every commit.
ARG VERSION=docker
ARG REVISION=unknown
ARG SOURCE=https://github.com/odin-ws/odin
LABEL org.opencontainers.image.title="odin" \
      org.opencontainers.image.description="A WebSocket gateway for market data" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"
