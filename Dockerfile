FROM golang:1.26 AS build
WORKDIR /src
COPY Makefile go.mod go.sum ./
RUN make modules
COPY . .
ARG VERSION=dev
RUN make build VERSION="${VERSION}"

# Nothing but the program and the authorities it trusts: no shell, no libraries.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/bin/onceover /onceover
# By number, so that Kubernetes' runAsNonRoot can check it.
USER 65532:65532
# In a container, loopback would be reachable by nobody.
ENV ONCEOVER_HTTP_ADDR=0.0.0.0:8080
EXPOSE 8080
ENTRYPOINT ["/onceover"]
CMD ["worker"]
