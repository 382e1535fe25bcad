#   docker build -t odin --build-arg VERSION=$(git describe --tags --always --dirty) .
#   docker run --rm -p 8080:8080 -v odin-data:/data --memory 512m odin
#
# The base images are arguments so that a mirror or a pinned digest can be given.
ARG BUILD_IMAGE=golang:1.26-bookworm
ARG RUN_IMAGE=scratch

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# The modules come first: they change seldom, and the layer is kept.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=docker
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false \
        -ldflags "-s -w -X main.version=${VERSION}" -o /out/odin ./cmd/odin \
 && mkdir -p /out/data /out/tmp && chmod 1777 /out/tmp

FROM ${RUN_IMAGE}
COPY --from=build /out/odin /odin
COPY --from=build /src/LICENSE /LICENSE
# For --nats-url with TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
# A volume made from this directory inherits its owner, so the user below can write to it.
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build --chown=65532:65532 /out/tmp /tmp
ENV ODIN_DATA_DIR=/data
VOLUME /data
# Numeric, so that Kubernetes can see without a passwd file that it is not root.
USER 65532:65532
# 8080 is for clients. The admin port (8081) listens on loopback inside the
# container and is deliberately not exposed.
EXPOSE 8080
STOPSIGNAL SIGTERM
# The admin port answers without TLS whatever the public one speaks.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/odin", "health", "--url", "http://127.0.0.1:8081"]
ENTRYPOINT ["/odin"]
CMD ["serve"]
